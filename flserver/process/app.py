"""A server process at work: its record, its metrics and its one run, started and stopped in order.

Start: what ``launch`` did → the model's thread → metrics → writer → first entries → coordinator → sessions.
Stop: coordinator → listener → sessions → writer → metrics.
"""

import logging
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from flserver import events
from flserver.audit.prove import extension
from flserver.clock import Deadline, monotonic
from flserver.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    CheckpointError,
    FlserverError,
    StoreError,
    UsageError,
    one_line,
)
from flserver.events.bus import Bus
from flserver.heads.note import Note as SignedNote
from flserver.observers.heads import CheckpointPage
from flserver.observers.health import Health
from flserver.observers.http import MetricsServer
from flserver.observers.metrics import Metrics
from flserver.observers.noted_heads import HeadFile
from flserver.process.acts import acted, sender_detail, who_sent
from flserver.process.first_entries import close_left_overs, record_opening, restore_metrics
from flserver.process.launched import Launched
from flserver.process.names import open_files
from flserver.process.preparation import Preparation
from flserver.process.resources import allow_descriptors, limit_arenas
from flserver.process.resume_command import resume_command
from flserver.process.run import Run
from flserver.process.signing import signer
from flserver.settings import ServerSettings
from flserver.settings.hosts import with_port
from flserver.settings.operator import Note
from flserver.settings.places import name_of
from flserver.store.backlog import MOST_EVENTS
from flserver.store.database import at
from flserver.store.tree_reader import TreeReader
from flserver.store.writer import Writer

logger = logging.getLogger(__name__)


def serve(launched: Launched) -> int:
    """Run the server to the end of its run and return the exit code.

    Raises UsageError for what cannot be done, before anything is on record; CheckpointError likewise.
    """
    allow_descriptors()
    limit_arenas()
    _warn(launched.plan.settings)
    with closing(Preparation(launched.plan, launched.basis, launched.say)) as preparation:
        preparation.start()
        # Until somebody is at the door a model that fails leaves no trace. From then on it is a run that fails.
        launched.signals.wait_for(preparation, *launched.listener.door)
        if not launched.signals.received:
            if preparation.done:
                preparation.result()
            launched.lock.require_run()  # since it was planned, another server may have gone on with it
            launched = launched.begin()
            launched.lock.require_run()
            launched.basis.clean()
            return App(launched, preparation).run()
    launched.say(f"{launched.signals.wait()}: stopped before anything began")
    return EXIT_INTERRUPTED


def _warn(settings: ServerSettings) -> None:
    for line in open_files(settings.store):
        logger.warning("%s", line)
    if settings.rounds.min_updates == 1:
        logger.warning("--min-updates 1 lets a single site's model become the global model that all others are sent")
    if settings.network.insecure and settings.identity.tls_cert is None:
        logger.warning("--insecure: an attacker between the trainers and this server can run code on the trainers")


class App:
    """The parts of a process, in the order in which they start."""

    def __init__(self, launched: Launched, preparation: Preparation) -> None:
        self._launched = launched
        self._signals, self._say = launched.signals, launched.say
        plan, db = launched.plan, launched.plan.settings.store.db
        self._seeds = at(db).id_seeds()
        self._writer = Writer(
            db,
            run_id=plan.run_id,
            process_id=self._seeds.process_id,
            patience=plan.settings.store.db_patience,
            sign=signer(plan.settings.store),
            lock=launched.lock,
        )
        self._parts = run = Run(launched, preparation, self._writer, self._seeds)
        self._metrics = Metrics(
            {
                "answered_clients": lambda: run.exchange.waiting.answered,
                "awaited_clients": lambda: run.exchange.waiting.missing,
                "inflight_bytes": lambda: run.memory.in_use,
                "inflight_limit_bytes": lambda: run.memory.budget,
                "open_connections": lambda: run.server.open_connections,
                "open_connections_limit": lambda: run.most_connections,
                "model_parameters": lambda: run.parameters,
                "database_bytes": at(db).bytes,
                "audit_queue_length": lambda: self._writer.queue_length,
                "audit_queue_length_limit": lambda: MOST_EVENTS,
                "audit_sequence": lambda: self._writer.sequence,
            }
        )
        identity = plan.settings.identity
        places = db, plan.settings.store.checkpoint_dir
        beside = next((place for place in places if isinstance(place, Path)), Path(name_of(db)))
        self._why_stop, self._why_reload = Note(beside), Note(identity.clients or identity.tls_cert or beside)
        self._tree = TreeReader(db)
        self._heads = CheckpointPage(self._proven)
        self._bus = Bus()
        # Metrics first: who reads of a round in the log finds it counted.
        self._bus.subscribe(self._metrics, self._heads, *launched.console)

    def run(self) -> int:
        """Start everything, wait for the end of the run, stop everything. Returns the exit code."""
        network = self._launched.plan.settings.network
        with ExitStack() as stack:
            if network.metrics_port:
                address = network.metrics_host, network.metrics_port
                endpoint = MetricsServer(*address, self._metrics, self._health, self._heads)
                endpoint.start()
                stack.callback(endpoint.close)
                self._say(f"metrics on http://{with_port(*endpoint.address)}/metrics")
            self._launched.basis.checkpoints.prepare()
            self._note_heads(stack)
            self._writer.start(
                on_committed=self._bus.publish,
                on_commit_seconds=self._metrics.commit_took,
                on_failure=self._store_failed,
                on_head=self._launched.lock.note_head,
            )
            stack.callback(self._writer.close)
            try:
                self._record_start()
                code = self._run_rounds()
                self._writer.emit(events.ServerStopped(process_id=self._seeds.process_id, exit_code=code))
                self._writer.close()
            except FlserverError as error:
                return self._failed(error)
            if network.metrics_port and network.metrics_linger and not self._signals.received:
                self._linger(network.metrics_linger)
        if code == EXIT_INTERRUPTED:
            self._say(self._how_to_go_on())
        return code

    def _note_heads(self, stack: ExitStack) -> None:
        """Note the chain's heads where ``--audit-head`` says, until the writer has ended."""
        plan, committed = self._launched.plan, self._launched.basis.round
        if (file := plan.settings.store.audit_head) is not None:
            heads = HeadFile(file, plan.run_id, None if committed < 0 else committed, lambda: self._writer.head)
            heads.start()
            stack.callback(heads.close)
            self._bus.subscribe(heads)

    def _record_start(self) -> None:
        """Close what a dead process left open, then put on record which run this process works on."""
        launched = self._launched
        close_left_overs(self._writer, launched.reader, launched.lock)
        # Before the first event that this process adds to the run: what SQL holds is taken over once.
        restore_metrics(self._metrics, launched.plan, launched.reader)
        record_opening(self._writer, launched, self._seeds.process_id, self._beginning())
        if launched.plan.settings.values["log_format"] == "text":
            self._signals.last_words = f"{self._how_to_go_on()}\n"

    def _how_to_go_on(self) -> str:
        plan = self._launched.plan
        return f"to go on: {resume_command(plan.settings.store.db, plan.ref)}"

    def _beginning(self) -> dict[str, Any]:
        host, port = self._launched.listener.address
        described = self._launched.admission.describe()
        return {"host": host, "port": port} | {key: value for key, value in described.items() if value is not None}

    def _run_rounds(self) -> int:
        self._parts.start()
        try:
            while (stopped_by := self._signals.wait()) == "SIGHUP":
                self._reload()
            if stopped_by is not None:
                self._stop(stopped_by)
        except BaseException:
            self._parts.stop("failed")
            raise
        finally:
            self._parts.close()
        self._writer.flush()
        return self._exit_code()

    def _stop(self, signal: str) -> None:
        """Begin no round any more; what runs may end. A second signal does not come here: it ends the process."""
        grace = self._launched.plan.settings.rounds.stop_grace
        patience = f"what runs has {grace:g} s to end; once more" if grace else "once more"
        self._say(f"{signal}: stopping ({patience}: at once)")
        sender = self._signals.sender
        detail = {"signal": signal, "grace": grace} | sender_detail(sender)
        self._writer.emit(acted("stop", detail, who_sent(sender).said_in(self._why_stop)))
        self._parts.stop(f"stopped by {signal}", grace)

    def _reload(self) -> None:
        """Read certificates and roster again; what cannot be used changes nothing."""
        admission, sender = self._launched.admission, self._signals.sender
        operator, sent = who_sent(sender).said_in(self._why_reload), sender_detail(sender)
        try:
            admission.reload()
        except UsageError as error:
            logger.error("SIGHUP: nothing is changed: %s", one_line(error))
            self._writer.emit(acted("reload", {"refused": one_line(error)} | sent, operator))
        else:
            logger.info("SIGHUP: read again: %s", admission.summary)
            self._writer.emit(acted("reload", admission.describe() | sent, operator))
            self._parts.roster_changed()

    def _exit_code(self) -> int:
        coordinator = self._parts.coordinator
        if coordinator.error is not None:
            return self._failed(coordinator.error)
        return {"completed": EXIT_DONE, "interrupted": EXIT_INTERRUPTED}.get(coordinator.state, EXIT_FAILED)

    def _failed(self, error: BaseException) -> int:
        """Say what ended the run, once, and how it goes on when that is mended. The exit code."""
        logger.error("failed: %s", one_line(error))
        if isinstance(error, StoreError | CheckpointError):
            logger.error("when that is mended, %s", self._how_to_go_on())
        return error.exit_code if isinstance(error, FlserverError) else EXIT_FAILED

    def _store_failed(self, error: BaseException) -> None:
        """Called on the writer's thread: without its record the server does not go on."""
        logger.debug("where it failed", exc_info=error)
        self._metrics.write_failed()
        self._parts.exchange.stop("the audit record failed")

    def _health(self) -> Health:
        coordinator, writer = self._parts.coordinator, self._writer
        due, waiting = coordinator.due, self._parts.exchange.waiting
        left = coordinator.seconds_left if waiting.awaited is not None else None
        if waiting.awaited == "registrations" and left is None:
            left = waiting.closes_in(monotonic())
        return Health(
            run_id=self._launched.plan.run_id,
            state=coordinator.state,
            round=self._parts.exchange.current_round,
            deadline=None if due is None else Deadline(due),
            awaited=waiting.awaited,
            answered=waiting.answered,
            missing=waiting.missing,
            seconds_left=left,
            writer_alive=writer.alive or coordinator.ended,
            accepting=self._parts.server.accepting or coordinator.ended,
            sequence=writer.sequence,
            digest=writer.last_digest,
            queue_length=writer.queue_length,
            nodes=self._parts.nodes,
        )

    def _proven(self, since: int, head: events.HeadSigned) -> str:
        """Called on the metrics' thread."""
        return str(extension(self._tree, since, SignedNote.parse(head.note)))

    def _linger(self, seconds: float) -> None:
        """Let the last values be scraped."""
        self._say(f"metrics stay for {seconds:g} s")
        deadline = Deadline.after(seconds)
        while self._signals.wait(deadline.remaining()) == "SIGHUP":
            pass  # there is nobody left to let in
