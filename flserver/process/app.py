"""The composition root: wires everything, and owns the order in which it starts and stops.

Start: what ``launch`` did → the model → metrics → writer → round 0 → coordinator → sessions.
Stop: listener → coordinator → sessions → bus → writer → metrics.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import count
from typing import Any

from flserver import events
from flserver.clock import Deadline
from flserver.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, FlserverError, UsageError, one_line
from flserver.events.bus import Bus, Observer, publisher
from flserver.network.admission import Admission
from flserver.network.context import Desk, Limits
from flserver.network.listener import Listener
from flserver.network.memory import ReceiveMemory
from flserver.network.server import Capacity, Server
from flserver.network.transport import Pace
from flserver.observers.health import Health
from flserver.observers.http import MetricsServer
from flserver.observers.metrics import Metrics, database_bytes
from flserver.process.first_entries import close_left_overs, record_opening, restore_metrics
from flserver.process.prepare import Prepared, prepare
from flserver.process.resources import (
    PICKLE_SLACK,
    RATE_WINDOW,
    SPARE_STEPS,
    _allow_descriptors,
    _connections_possible,
    _limit_arenas,
)
from flserver.process.signals import Signals
from flserver.process.which_run import Plan
from flserver.rounds import Rounds
from flserver.rounds.broadcast import BroadcastBuffers
from flserver.rounds.committer import Committer
from flserver.rounds.coordinator import Coordinator
from flserver.rounds.exchange import Exchange
from flserver.settings import ServerSettings
from flserver.store.reader import Reader
from flserver.store.schema import Upgrade
from flserver.store.sqlite import cause
from flserver.store.writer import Writer
from flserver.wire.pickles import PickleLimits

logger = logging.getLogger(__name__)

SESSION_GRACE = 3.0  # seconds to say <FINISHED>


def serve(
    plan: Plan,
    reader: Reader,
    upgrade: Upgrade | None,
    listener: Listener,
    admission: Admission,
    signals: Signals,
    console: Sequence[Observer],
    say: Callable[[str], None],
) -> int:
    """Run the server on ``listener`` to the end of its run and return the exit code.

    The caller holds the database's lock; ``upgrade`` is what it did to the schema. ``console`` shows events, ``say``
    tells the operator a line. Raises UsageError for what cannot be done, before anything is on record.
    """
    _allow_descriptors()
    _limit_arenas()
    _warn(plan.settings)
    prepared = prepare(plan, reader, say)
    if signals.received:
        say(f"{signals.wait()}: stopped before anything began")
        return EXIT_INTERRUPTED
    return _Serving(plan, prepared, reader, signals, listener, admission, console, say).run(upgrade)


class _Serving:
    """One run's worth of a server: its parts, in the order in which they start."""

    def __init__(
        self,
        plan: Plan,
        prepared: Prepared,
        reader: Reader,
        signals: Signals,
        listener: Listener,
        admission: Admission,
        console: Sequence[Observer],
        say: Callable[[str], None],
    ) -> None:
        self._plan, self._prepared, self._reader = plan, prepared, reader
        self._signals, self._listener, self._admission, self._say = signals, listener, admission, say
        settings = plan.settings
        self._seeds = reader.id_seeds()
        self._observers: list[Observer] = list(console)
        self._writer = Writer(
            settings.store.db,
            run_id=plan.run_id,
            process_id=self._seeds.process_id,
            on_committed=publisher(self._observers),
            on_failure=self._store_failed,
            on_commit_seconds=lambda seconds: self._metrics.commit_took(seconds),
        )
        self._bus = Bus(self._writer)
        buffers = BroadcastBuffers(prepared.template)
        network = settings.network
        self._limits = Limits(
            json=network.max_json_size,
            pickle=network.max_update_size or 2 * buffers.size + PICKLE_SLACK,
            tensors=2 * sum(tensor.nbytes for tensor in prepared.model.values()) + PICKLE_SLACK,
            # A few kilobytes can name one tensor a hundred thousand times; a trainer's model has the parts of ours.
            pickles=PickleLimits(steps=2 * prepared.template.module.steps + SPARE_STEPS),
            first_frame=network.first_frame_timeout,
            pace=Pace(
                whole=network.frame_timeout,
                rate=network.min_rate,
                window=min(RATE_WINDOW, network.first_frame_timeout),
            ),
            peer_timeout=network.peer_timeout,
        )
        self._memory = ReceiveMemory(network.receive_memory, self._limits.pickle, settings.store.checkpoint_dir)
        capacity = Capacity(min(network.max_connections, _connections_possible()), network.max_connections_per_address)
        self._metrics = Metrics(
            {
                "inflight_bytes": lambda: self._memory.in_use,
                "inflight_limit_bytes": lambda: self._memory.budget,
                "open_connections_limit": lambda: capacity.in_all,
                "model_parameters": lambda: prepared.parameters,
                "database_bytes": lambda: database_bytes(settings.store.db),
                "audit_queue_length": lambda: self._writer.queue_length,
                "audit_sequence": lambda: self._writer.sequence,
            }
        )
        self._committer = Committer(
            run_id=plan.run_id,
            process_id=self._seeds.process_id,
            bus=self._bus,
            strategy=prepared.strategy,
            evaluator=prepared.evaluator,
            checkpoints=prepared.checkpoints,
            keep=settings.store.keep_checkpoints,
            model=prepared.model,
            round=prepared.round,
            digest=prepared.digest,
            kept=prepared.kept,
        )
        following = max(prepared.round + 1, 0)
        self._exchange = Exchange(
            Rounds(
                settings.rounds,
                known={p.client_id: (p.data_size, p.registration) for p in reader.participants(plan.run_id)},
                min_updates=reader.min_updates(plan.run_id),
                identity=admission.identity,
            ),
            prepared.model,
        )
        self._coordinator = Coordinator(
            policy=settings.rounds,
            exchange=self._exchange,
            committer=self._committer,
            buffers=buffers,
            bus=self._bus,
            process_id=self._seeds.process_id,
            attempts_before={following: reader.next_attempt(plan.run_id, following) - 1},
            on_end=signals.ended,
        )
        self._server = Server(
            listener,
            Desk(
                exchange=self._exchange,
                bus=self._bus,
                memory=self._memory,
                limits=self._limits,
                introduction=admission.introduction,
                identity=admission.identity,
                tied=prepared.tied,
                message_ids=count(self._seeds.message_id),
                update_ids=count(self._seeds.update_id),
            ),
            count(self._seeds.connection_id),
            capacity,
        )

    def run(self, upgrade: Upgrade | None) -> int:
        """Start everything, wait for the end of the run, stop everything. Returns the exit code."""
        network = self._plan.settings.network
        with ExitStack() as stack:
            if network.metrics_port:
                endpoint = MetricsServer(network.metrics_host, network.metrics_port, self._metrics, self._health)
                endpoint.start()
                stack.callback(endpoint.close)
                self._say(f"metrics on http://{_address(endpoint.address)}/metrics")
            self._prepared.checkpoints.prepare()
            self._writer.start()
            stack.callback(self._writer.close)
            try:
                self._record_start(upgrade)
                code = self._run_rounds()
                self._bus.emit(events.ServerStopped(process_id=self._seeds.process_id, exit_code=code))
                self._writer.close()
            except FlserverError as error:
                logger.error("failed: %s", one_line(error))
                return EXIT_FAILED
            if network.metrics_port and network.metrics_linger and not self._signals.received:
                self._say(f"metrics stay for {network.metrics_linger:g} s")
                deadline = Deadline.after(network.metrics_linger)
                while self._signals.wait(deadline.remaining()) == "SIGHUP":
                    pass  # there is nobody left to let in
        return code

    def _record_start(self, upgrade: Upgrade | None) -> None:
        """Close what a dead process left open, then put on record which run this process works on."""
        close_left_overs(self._bus, self._reader)
        # From here on metrics count what commits; what SQL holds already is restored first, once.
        restore_metrics(self._metrics, self._plan, self._reader)
        self._observers.insert(0, self._metrics)
        record_opening(self._bus, self._plan, self._prepared, self._seeds.process_id, self._beginning(), upgrade)

    def _beginning(self) -> dict[str, Any]:
        host, port = self._listener.address
        admitted = {key: value for key, value in self._admission.describe().items() if value is not None}
        return {"host": host, "port": port} | admitted

    def _run_rounds(self) -> int:
        self._coordinator.start()
        self._server.start()
        try:
            while (stopped_by := self._signals.wait()) == "SIGHUP":
                self._reload()
            if stopped_by is not None:
                self._say(f"{stopped_by}: stopping (once more: at once)")
                self._bus.emit(events.OperatorActed(kind="stop", detail={"signal": stopped_by}))
                self._server.stop_accepting()
                self._exchange.stop(f"stopped by {stopped_by}")
        finally:
            self._server.stop_accepting()
            self._exchange.stop("failed")  # of no effect where the run has ended
            self._coordinator.join()
            self._server.close(SESSION_GRACE)
        self._bus.flush()
        return self._exit_code()

    def _reload(self) -> None:
        """Read certificates and roster again; what cannot be used changes nothing."""
        try:
            self._admission.reload()
        except UsageError as error:
            logger.error("SIGHUP: nothing is changed: %s", one_line(error))
            self._bus.emit(events.OperatorActed(kind="reload", detail={"refused": one_line(error)}))
        else:
            detail = self._admission.describe()
            clients = "" if detail["clients"] is None else f", {len(detail['clients'])} clients on the roster"
            what = f"certificate {detail['certificate']}{clients}" if self._admission.reloads else "nothing"
            logger.info("SIGHUP: read again: %s", what)
            self._bus.emit(events.OperatorActed(kind="reload", detail=detail))
            self._exchange.roster_changed()

    def _exit_code(self) -> int:
        error = self._coordinator.error
        if error is not None:
            logger.error("failed: %s", one_line(error))
            return error.exit_code if isinstance(error, FlserverError) else EXIT_FAILED
        return {"completed": EXIT_DONE, "interrupted": EXIT_INTERRUPTED}.get(self._coordinator.status, EXIT_FAILED)

    def _store_failed(self, error: BaseException) -> None:
        """Called on the writer's thread: without its record the server does not go on."""
        logger.error("the audit record failed: %s", cause(error))
        logger.debug("where it failed", exc_info=error)
        self._metrics.write_failed()
        self._exchange.stop("the audit record failed")

    def _health(self) -> Health:
        due = self._coordinator.due
        return Health(
            run_id=self._plan.run_id,
            state=self._coordinator.state,
            round=self._coordinator.current_round,
            deadline=None if due is None else Deadline(due),
            writer_alive=self._writer.alive or self._coordinator.status != "running",
            accepting=self._server.accepting or self._coordinator.status != "running",
            sequence=self._writer.sequence,
            digest=self._writer.last_digest,
            queue_length=self._writer.queue_length,
        )


def _warn(settings: ServerSettings) -> None:
    if settings.rounds.min_updates == 1:
        logger.warning("--min-updates 1 lets a single site's model become the global model that all others are sent")
    if settings.network.insecure and settings.identity.tls_cert is None:
        logger.warning("--insecure: an attacker between the trainers and this server can run code on the trainers")


def _address(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
