"""The parts of one run: its rounds, and its trainers' connections."""

from itertools import count

from flserver.events.bus import Recorder
from flserver.network.context import Context
from flserver.network.decoding import Decoding
from flserver.network.memory import ReceiveMemory
from flserver.network.server import Server
from flserver.process.launched import Launched
from flserver.process.prepare import Prepared
from flserver.process.resources import capacity_of, limits_of
from flserver.rounds import Rounds
from flserver.rounds.broadcast import BroadcastBuffers
from flserver.rounds.committer import Committer
from flserver.rounds.coordinator import Coordinator
from flserver.rounds.exchange import Exchange
from flserver.store.reader import IdSeeds

SESSION_GRACE = 3.0  # seconds to say goodbye


class Run:
    """What ``launched`` and ``prepared`` make of a run; ``seeds`` are the first ids that it may give.

    ``start`` lets trainers in and begins the rounds, ``stop`` ends them early, ``close`` waits for the end.
    """

    def __init__(self, launched: Launched, prepared: Prepared, recorder: Recorder, seeds: IdSeeds) -> None:
        settings, admission = launched.plan.settings, launched.admission
        limits = limits_of(
            settings.network, prepared.template, prepared.model.state, parameter_tensors=prepared.parameter_tensors
        )
        self.capacity = capacity_of(settings.network)
        self.memory = ReceiveMemory(settings.network.receive_memory, limits.usual, settings.store.checkpoint_dir)
        self.exchange = Exchange(_rounds(launched), prepared.model)
        self.coordinator = self._make_coordinator(launched, prepared, recorder, seeds.process_id)
        self.server = Server(
            launched.listener,
            Context(
                run_id=launched.plan.run_id,
                goodbye=settings.network.goodbye,
                exchange=self.exchange,
                recorder=recorder,
                memory=self.memory,
                decoding=Decoding(self.memory, limits.weight),
                limits=limits,
                preamble=admission.preamble,
                identity=admission.identity,
                tied=prepared.tied,
                accept_dtypes=settings.network.accept_dtypes,
                message_ids=count(seeds.message_id),
                update_ids=count(seeds.update_id),
            ),
            count(seeds.connection_id),
            self.capacity,
        )

    def _make_coordinator(
        self, launched: Launched, prepared: Prepared, recorder: Recorder, process_id: int
    ) -> Coordinator:
        plan, following = launched.plan, max(prepared.model.round + 1, 0)
        committer = Committer(
            process_id=process_id,
            recorder=recorder,
            strategy=prepared.strategy,
            evaluator=prepared.evaluator,
            checkpoints=prepared.checkpoints,
            keep=plan.settings.store.keep_checkpoints,
            made=prepared.made,
        )
        return Coordinator(
            run_id=plan.run_id,
            process_id=process_id,
            policy=plan.settings.rounds,
            exchange=self.exchange,
            committer=committer,
            buffers=BroadcastBuffers(prepared.template),
            recorder=recorder,
            attempts_before={following: launched.reader.next_attempt(plan.run_id, following) - 1},
            on_end=launched.signals.ended,
        )

    def start(self) -> None:
        """Begin the rounds and let trainers in."""
        self.coordinator.start()
        self.server.start()

    def stop(self, reason: str, grace: float = 0.0) -> None:
        """End the run, where it has not ended: what runs has ``grace`` seconds to end by itself."""
        self.exchange.stop(reason, grace)

    def close(self) -> None:
        """Wait for the coordinator, close the door, give the sessions time to say goodbye, and join all threads.

        Until the coordinator has ended the door is open, for a round that may end needs its trainers' uploads.
        """
        self.coordinator.join()
        self.server.stop_accepting()
        self.server.close(SESSION_GRACE)


def _rounds(launched: Launched) -> Rounds:
    """The rules, with what earlier processes of the run have settled."""
    plan, reader = launched.plan, launched.reader
    return Rounds(
        plan.settings.rounds,
        known={p.client_id: (p.data_size, p.registration) for p in reader.participants(plan.run_id)},
        min_updates=reader.min_updates(plan.run_id),
        identity=launched.admission.identity,
    )
