"""The parts of one run: its rounds, and its trainers' connections."""

from collections.abc import Callable
from functools import partial
from itertools import count
from threading import Event
from typing import TYPE_CHECKING, get_args

from flserver.errors import StartError, one_line
from flserver.events.bus import Recorder
from flserver.models.norms import Norms
from flserver.network.context import Context
from flserver.network.decoding import Decoding
from flserver.network.memory import ReceiveMemory
from flserver.network.server import Server
from flserver.network.strangers import Strangers
from flserver.process.first_entries import record_arithmetic
from flserver.process.launched import Launched
from flserver.process.preparation import Preparation
from flserver.process.resources import capacity_of, first_limits, limits_of, places_of
from flserver.process.resume_command import go_back_command
from flserver.process.which_run import Plan
from flserver.rounds import Rounds
from flserver.rounds.broadcast import SMALL, BroadcastBuffers, Broadcasts
from flserver.rounds.committer import Committer, nothing_elsewhere
from flserver.rounds.coordinator import Coordinator
from flserver.rounds.exchange import Exchange
from flserver.rounds.folding import Folding
from flserver.rounds.model import CurrentModel
from flserver.rounds.norms import NormHistory
from flserver.store.reader import IdSeeds, Reader

if TYPE_CHECKING:
    from flserver.ingest.desk import Desk
    from flserver.process.nodes.children import Nodes
    from flserver.process.prepare import Prepared
    from flserver.process.ray.nodes import RayNodes

SESSION_GRACE = 3.0  # seconds to say goodbye
GOODBYE_SECONDS = 0.001  # more for each connection: thousands of trainers are told one after another


class Run:
    """What ``launched`` and ``preparation`` make of a run; ``seeds`` are the first ids that it may give.

    ``start`` lets trainers in and begins the rounds, ``stop`` ends them early, ``close`` waits for the end.
    """

    def __init__(self, launched: Launched, preparation: Preparation, recorder: Recorder, seeds: IdSeeds) -> None:
        settings, admission, basis = launched.plan.settings, launched.admission, launched.basis
        limits, nodes = first_limits(settings.network), settings.ingest.ingest
        self._launched, self._preparation = launched, preparation
        self._recorder, self._process_id = recorder, seeds.process_id
        self.parameters = 0  # as far as is known
        self.capacity = capacity_of(settings.network)
        self.memory = ReceiveMemory(settings.network.receive_memory, limits.usual, settings.store.spool_dir)
        self.exchange = Exchange(_rounds(launched), CurrentModel(basis.round, {}, basis.digest))
        self._folding = Folding(self.exchange)
        self.coordinator = self._make_coordinator()
        self.desk = _desk(launched, self.exchange, recorder, seeds) if nodes else None
        self._context = Context(
            run_id=launched.plan.run_id,
            goodbye=settings.network.goodbye,
            exchange=self.exchange,
            folding=self._folding,
            recorder=recorder,
            strangers=Strangers(recorder, settings.network.strangers_per_minute),
            memory=self.memory,
            decoding=Decoding(self.memory, limits.weight),
            limits=limits,
            preamble=admission.preamble,
            identity=admission.identity,
            tied={},
            buffers=(),
            accept_dtypes=settings.network.accept_dtypes,
            message_ids=count(seeds.message_id),
            update_ids=count(seeds.update_id),
            known=Event(),
        )
        self.server: Server | Nodes | RayNodes = (
            Server(launched.listener, self._context, count(seeds.connection_id), self.capacity)
            if self.desk is None
            else _nodes(launched, self.desk, self.exchange.stop)
        )

    def _make_coordinator(self) -> Coordinator:
        plan, following = self._launched.plan, self._launched.basis.round + 1
        return Coordinator(
            run_id=plan.run_id,
            process_id=self._process_id,
            policy=plan.settings.rounds,
            exchange=self.exchange,
            prepare=self._prepare,
            recorder=self._recorder,
            go_back=partial(go_back_command, plan.settings.store.db, plan.ref),
            attempts_before={following: self._launched.reader.next_attempt(plan.run_id, following) - 1},
            on_end=self._launched.signals.ended,
        )

    def _prepare(self) -> tuple[Committer, Broadcasts]:
        """Wait for the model, and let everybody know of it. Raises StartError."""
        settings = self._launched.plan.settings
        try:
            prepared = self._preparation.result()
        except Exception as error:
            raise StartError(one_line(error)) from error
        model, tensors = prepared.hand_over(), prepared.parameter_tensors
        limits = limits_of(settings.network, prepared.template, model.state, parameter_tensors=tensors)
        buffers: Broadcasts = self.desk or BroadcastBuffers(prepared.template)
        if self.desk is not None:
            self.desk.small = len(prepared.template.buffer) <= SMALL
            self.desk.goes_on_after = model.step.before if model.step is not None else None
            self.desk.keep_with(prepared.kept, prepared.strategy)
            self.desk.expect(_layout(model, prepared))
        prepared.strategy.scratch = self.memory.scratch
        self._folding.committer = committer = Committer(
            process_id=self._process_id,
            recorder=self._recorder,
            strategy=prepared.strategy,
            evaluator=prepared.evaluator,
            checkpoints=prepared.checkpoints,
            keep=settings.store.keep_checkpoints,
            made=prepared.made,
            kept=prepared.kept,
            meanwhile=buffers.render,
            gathers=self.desk.gather if self.desk is not None else nothing_elsewhere,
            node_heads=self.desk.heads if self.desk is not None else tuple,
        )
        record_arithmetic(self._recorder, self._launched.plan, prepared.strategy)
        self.parameters = prepared.parameters
        self.exchange.replace_model(model)
        self._context.learn(limits, prepared.tied, prepared.buffers)
        return committer, buffers

    def start(self) -> None:
        """Begin the rounds and let trainers in. Raises StartError where no thread or node can be started for that."""
        self.coordinator.start()
        try:
            self.server.start()
        except BaseException:
            self.exchange.stop("nobody could be let in")
            self.coordinator.join()
            raise

    @property
    def most_connections(self) -> int:
        """How many can be served at once, by all that serve some."""
        return self.capacity.at_once * max(1, self._launched.plan.settings.ingest.ingest)

    @property
    def nodes(self) -> tuple[int, int] | None:
        """How many ingest nodes serve, of how many; None where the server has none."""
        server = self.server
        return None if isinstance(server, Server) else (server.serving, self._launched.plan.settings.ingest.ingest)

    def roster_changed(self) -> None:
        """Certificates and the roster were read again."""
        if self.desk is not None:
            self.desk.reload(self._launched.admission.identity.roster)
        self.exchange.roster_changed()

    def stop(self, reason: str, grace: float = 0.0) -> None:
        """End the run, where it has not ended: what runs has ``grace`` seconds to end by itself."""
        self.exchange.stop(reason, grace)

    def close(self) -> None:
        """Wait for the coordinator, close the door, give the sessions time to say goodbye, and join all threads.

        Until the coordinator has ended the door is open, for a round that may end needs its trainers' uploads.
        """
        self.coordinator.join()
        self.server.stop_accepting()
        self.server.close(SESSION_GRACE + GOODBYE_SECONDS * self.server.open_connections)


def _desk(launched: Launched, exchange: Exchange, recorder: Recorder, seeds: IdSeeds) -> "Desk":
    from flserver.ingest.desk import Desk
    from flserver.ingest.ids import Ids, Names
    from flserver.ingest.questions import IdKind

    kinds: tuple[IdKind, ...] = get_args(IdKind)
    desk = Desk(exchange, recorder, Ids({kind: getattr(seeds, kind) for kind in kinds}))
    desk.named = Names(launched.reader.nodes_named(launched.plan.run_id))
    return desk


def _nodes(launched: Launched, desk: "Desk", end_run: Callable[[str], None]) -> "Nodes | RayNodes":
    from flserver.process.nodes.terms import Terms

    settings, run_id, identity = launched.plan.settings, launched.plan.run_id, launched.admission.identity
    terms = Terms(settings, run_id, launched.basis.code, lambda: identity.roster)
    if settings.ingest.ray_address is not None:
        from flserver.process.ray.nodes import RayNodes

        answers = partial(launched.reader.answers, run_id)
        return RayNodes(terms, launched.listener, desk, launched.say, end_run, answers, launched.left)
    from flserver.process.nodes.children import Nodes

    return Nodes(terms, launched.listener, desk, end_run)


def _layout(model: CurrentModel, prepared: "Prepared") -> str:
    from flserver.ingest.batches import layout_digest

    return layout_digest(model.state, prepared.tied, prepared.buffers)


def _rounds(launched: Launched) -> Rounds:
    """The rules, with what earlier processes of the run have settled."""
    plan, reader = launched.plan, launched.reader
    clients = reader.participants(plan.run_id)
    rounds = Rounds(
        plan.settings.rounds,
        known={client.client_id: (client.data_size, client.registration) for client in clients},
        min_updates=settled_quorum(plan, reader),
        identity=launched.admission.identity,
        visitors=[client.client_id for client in clients if not client.took_part],
        places=places_of(plan.settings.network, max(1, plan.settings.ingest.ingest)),
    )
    # A child that is not on record yet has its parent's history, as far as that is its own.
    parent = plan.parent if plan.resumed is None else None
    norms = reader.accepted_norms(*((plan.run_id,) if parent is None else (parent.run["run_id"], parent.round)))
    rounds.norms.history = NormHistory(norms.rounds, Norms(norms.parameters, norms.buffers))
    return rounds


def settled_quorum(plan: Plan, reader: Reader) -> int | None:
    """The least number of updates that commits a round, where an earlier process of the run has settled it, or a
    child's parent: more than one site made the model that the child begins with. Else None."""
    own = reader.min_updates(plan.run_id)
    parents = reader.min_updates(plan.parent.run["run_id"]) if plan.parent is not None else None
    return own or (parents if parents is not None and parents > 1 else None)
