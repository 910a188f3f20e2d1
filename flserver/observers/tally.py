"""The numbers of the current run, counted from its events or taken over from SQL."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Protocol

from flserver import events as e
from flserver.clock import utc_timestamp
from flserver.events.words import (
    DECISIONS,
    DIRECTIONS,
    DROPOUT_REASONS,
    HEADERS,
    ORDERLY_REASONS,
    OTHER,
    OUTCOMES,
    PHASES,
    PURPOSES,
    REJECTED_KINDS,
    ROUND_ENDS,
)
from flserver.observers.histogram import CHECKPOINT_BUCKETS, CLIENT_BUCKETS, PHASE_BUCKETS, ROUND_BUCKETS, Histogram


class Totals(Protocol):
    """What SQL knows of a run, as ``restore`` takes it over: row counts, sums of bytes, durations in seconds.

    Keys are raw column values; ``updates`` holds decided ones only, ``connections`` closed ones only.
    """

    @property
    def rounds(self) -> Mapping[str, int]: ...
    @property
    def connections(self) -> Mapping[str, int]: ...
    @property
    def messages(self) -> Mapping[tuple[str, str | None, str], int]: ...
    @property
    def message_bytes(self) -> Mapping[tuple[str, str | None], int]: ...
    @property
    def updates(self) -> Mapping[str, int]: ...
    @property
    def rejected(self) -> Mapping[str | None, int]: ...
    @property
    def dropouts(self) -> Mapping[str, int]: ...
    @property
    def rejoins(self) -> int: ...
    @property
    def events(self) -> int: ...
    @property
    def round_seconds(self) -> Sequence[float]: ...
    @property
    def phase_seconds(self) -> Mapping[str, Sequence[float]]: ...
    @property
    def client_seconds(self) -> Sequence[float]: ...
    @property
    def checkpoint_seconds(self) -> Sequence[float]: ...


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a run is. ``min_updates`` is None until it is settled."""

    run_id: str
    name: str
    model: str
    strategy: str
    num_rounds: int
    min_updates: int | None


@dataclass(frozen=True, kw_only=True)
class LastRound:
    """The last committed round. ``committed_at`` is a Unix timestamp, sizes are bytes; None is unknown."""

    round: int | None = None
    loss: float | None = None
    accuracy: float | None = None
    clients_loss: float | None = None
    clients_accuracy: float | None = None
    checkpoint_bytes: int | None = None
    committed_at: float | None = None


class Tally:
    """The numbers of one run. Not thread-safe: whoever owns it locks."""

    def __init__(self) -> None:
        self.server: e.ServerStarted | None = None
        self.run: RunFacts | None = None
        self.planned_rounds: int | None = None
        self.min_updates: int | None = None
        self.state: str | None = None
        self.last: LastRound | None = None
        self.current_round: int | None = None
        self.participants = 0
        self.round_updates = 0
        self.round_started: float | None = None
        self.round_deadline: float | None = None
        self.open_connections = 0
        self._registrations: set[tuple[str, int]] = set()
        self._clear_counts()

    def _clear_counts(self) -> None:
        self.rounds: dict[str, int] = dict.fromkeys(ROUND_ENDS, 0)
        self.connections: dict[str, int] = dict.fromkeys(PURPOSES, 0)
        self.messages: dict[tuple[str, str, str], int] = {
            (d, h, o): 0 for d in DIRECTIONS for h in HEADERS for o in OUTCOMES
        }
        self.message_bytes: dict[tuple[str, str], int] = {(d, h): 0 for d in DIRECTIONS for h in HEADERS}
        self.updates: dict[str, int] = dict.fromkeys(DECISIONS, 0)
        self.rejected: dict[str, int] = dict.fromkeys(REJECTED_KINDS, 0)
        self.dropouts: dict[str, int] = dict.fromkeys(DROPOUT_REASONS, 0)
        self.rejoins = 0
        self.events = 0
        self.round_seconds = Histogram(ROUND_BUCKETS)
        self.phase_seconds: dict[str, Histogram] = {phase: Histogram(PHASE_BUCKETS) for phase in PHASES}
        self.client_seconds = Histogram(CLIENT_BUCKETS)
        self.checkpoint_seconds = Histogram(CHECKPOINT_BUCKETS)

    @property
    def connected_clients(self) -> int:
        return len(self._registrations)

    def restore(self, run: RunFacts, totals: Totals, last: LastRound | None) -> None:
        """Go on with ``run`` where SQL stands. Comes before the first event that this process adds to the run."""
        self._clear_counts()
        self.run, self.last = run, last
        self.planned_rounds, self.min_updates = run.num_rounds, run.min_updates
        self.current_round = last.round if last else None
        self.rounds.update((status, totals.rounds.get(status, 0)) for status in ROUND_ENDS)
        for purpose, count in totals.connections.items():
            self.connections[purpose] += count
        for (direction, header, outcome), count in totals.messages.items():
            self.messages[direction, _one_of(HEADERS, header), outcome] += count
        for (direction, header), size in totals.message_bytes.items():
            self.message_bytes[direction, _one_of(HEADERS, header)] += size
        for decision, count in totals.updates.items():
            self.updates[decision] += count
        for reason, count in totals.rejected.items():
            self.rejected[rejected_reason(reason)] += count
        for reason, count in totals.dropouts.items():
            self._count_left(reason, count)
        self.rejoins, self.events = totals.rejoins, totals.events
        self.round_seconds.load(totals.round_seconds)
        for phase, seconds in totals.phase_seconds.items():
            self.phase_seconds[phase].load(seconds)
        self.client_seconds.load(totals.client_seconds)
        self.checkpoint_seconds.load(totals.checkpoint_seconds)

    def observe(self, event: e.Event) -> None:
        """Count one event of the run, in the order of the record."""
        if isinstance(event, e.RunLeftOver):
            return  # about a process that is gone: SQL has it, and restore() took it over
        self.events += 1
        match event:
            case e.MessageReceived():
                self._count_message("in", event)
            case e.MessageSent():
                self._count_message("out", event)
            case e.ConnectionOpened():
                self.open_connections += 1
            case e.ConnectionClosed():
                self.open_connections -= 1
                self.connections[event.purpose] += 1
            case e.ClientRegistered():
                self._registrations.add((event.client_id, event.registration))
                self.rejoins += event.rejoined
            case e.ClientLeft():
                self._registrations.discard((event.client_id, event.registration))
                self._count_left(event.reason, 1)
            case e.UpdateReceived():
                self._update_received(event)
            case e.AttemptStarted():
                self._attempt_started(event)
            case e.RoundCommitted():
                self._round_committed(event)
            case e.AttemptAborted():
                self._attempt_aborted(event)
            case _:
                self._run_changed(event)

    def _count_message(self, direction: str, message: e.MessageReceived | e.MessageSent) -> None:
        header = _one_of(HEADERS, message.header)
        self.messages[direction, header, message.outcome] += 1
        self.message_bytes[direction, header] += message.bytes

    def _count_left(self, reason: str, count: int) -> None:
        if reason not in ORDERLY_REASONS:
            self.dropouts[_one_of(DROPOUT_REASONS, reason)] += count

    def _update_received(self, update: e.UpdateReceived) -> None:
        if update.decision is None:
            self.round_updates += 1
            return
        self.updates[update.decision] += 1
        if update.decision == "rejected":
            self.rejected[rejected_reason(update.reason)] += 1

    def _attempt_started(self, attempt: e.AttemptStarted) -> None:
        self.current_round = attempt.round
        self.participants = len(attempt.clients)
        self.round_updates = 0
        self.round_started = utc_timestamp(attempt.at)
        self.round_deadline = utc_timestamp(attempt.deadline_at) if attempt.deadline_at else None

    def _round_committed(self, done: e.RoundCommitted) -> None:
        self.rounds["committed"] += 1
        self._attempt_took(done, done.outcomes, "accepted")
        for phase, seconds in (("aggregate", done.aggregate_seconds), ("evaluate", done.evaluate_seconds)):
            self._observe_phase(phase, seconds)
        self._observe_phase("checkpoint", done.checkpoint_seconds)
        self.checkpoint_seconds.observe(done.checkpoint_seconds)
        clients = {metric.name: metric.value for metric in done.metrics if metric.source == "clients"}
        self.last = LastRound(
            round=done.round,
            loss=_finite(done.loss),
            accuracy=_finite(done.accuracy),
            clients_loss=_finite(clients.get("loss")),
            clients_accuracy=_finite(clients.get("accuracy")),
            checkpoint_bytes=done.checkpoint_bytes,
            committed_at=utc_timestamp(done.at),
        )

    def _attempt_aborted(self, aborted: e.AttemptAborted) -> None:
        self.rounds["aborted"] += 1
        self._attempt_took(aborted, aborted.outcomes, "aborted")

    def _attempt_took(
        self, ended: e.RoundCommitted | e.AttemptAborted, outcomes: Iterable[e.ClientOutcome], decision: str
    ) -> None:
        self.round_seconds.observe(ended.seconds)
        self._observe_phase("broadcast", ended.broadcast_seconds)
        self._observe_phase("wait", ended.wait_seconds)
        for outcome in outcomes:
            if outcome.update_id is not None:
                self.updates[decision] += 1
            if outcome.seconds is not None:
                self.client_seconds.observe(outcome.seconds)

    def _observe_phase(self, phase: str, seconds: float | None) -> None:
        if seconds is not None:
            self.phase_seconds[phase].observe(seconds)

    def _run_changed(self, event: e.Event) -> None:
        match event:
            case e.ServerStarted():
                self.server = event
            case e.RunStarted():
                self.run = RunFacts(
                    run_id=event.run_id,
                    name=event.name,
                    model=event.model,
                    strategy=event.strategy,
                    num_rounds=event.num_rounds,
                    min_updates=None,
                )
                self.planned_rounds = event.num_rounds
            case e.RunResumed():
                self.planned_rounds = event.num_rounds
                self.current_round = event.from_round
            case e.QuorumSettled():
                self.min_updates = event.min_updates
            case e.StateChanged():
                self.state = event.state
            case e.RunEnded():
                self.state = event.status


def rejected_reason(reason: str | None) -> str:
    """The label of a rejected update's reason, which begins with one of the closed set's words."""
    return _one_of(REJECTED_KINDS, (reason or OTHER).partition(":")[0])


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None  # SQL holds no other either


def _one_of(closed: Sequence[str], value: str | None) -> str:
    return value if value is not None and value in closed else OTHER
