"""The numbers of the current run, counted from its events or taken over from SQL."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from flserver import events as e
from flserver.clock import utc_timestamp
from flserver.events import words as w
from flserver.events.totals import Totals
from flserver.observers.histogram import CHECKPOINT_BUCKETS, CLIENT_BUCKETS, PHASE_BUCKETS, ROUND_BUCKETS, Histogram
from flserver.observers.node_tally import NodeTally

Word = TypeVar("Word", bound=str)


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
    """The last committed round. Losses are in nats, accuracies from 0 to 1, ``clients_…`` the means over its clients,
    sizes in bytes; ``committed_at`` is a Unix timestamp. None is what is not known; NaN and the infinities are what was
    measured of a model that has diverged."""

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
        self.state: w.RunState | None = None
        self.last: LastRound | None = None
        self.current_round: int | None = None
        self.participants = 0
        self.round_updates = 0
        self.round_started: float | None = None
        self.round_deadline: float | None = None
        self._registrations: set[tuple[str, int]] = set()
        self._clear_counts()

    def _clear_counts(self) -> None:
        self.rounds: dict[w.RoundStatus, int] = dict.fromkeys(w.ROUND_ENDS, 0)
        self.connections: dict[w.Purpose, int] = dict.fromkeys(w.PURPOSES, 0)
        self.messages: dict[tuple[w.Direction, str, w.Outcome], int] = {
            (d, h, o): 0 for d in w.DIRECTIONS for h in w.HEADERS for o in w.OUTCOMES
        }
        self.message_bytes: dict[tuple[w.Direction, str], int] = {(d, h): 0 for d in w.DIRECTIONS for h in w.HEADERS}
        self.updates: dict[w.Decision, int] = dict.fromkeys(w.DECISIONS, 0)
        self.rejected: dict[w.RejectedKind, int] = dict.fromkeys(w.REJECTED_KINDS, 0)
        self.dropouts: dict[w.DropoutReason, int] = dict.fromkeys(w.DROPOUT_REASONS, 0)
        self.rejoins = 0
        self.events = 0
        self.nodes = NodeTally()
        self.round_seconds = Histogram(ROUND_BUCKETS)
        self.phase_seconds: dict[w.Phase, Histogram] = {phase: Histogram(PHASE_BUCKETS) for phase in w.PHASES}
        self.client_seconds = Histogram(CLIENT_BUCKETS)
        self.checkpoint_seconds = Histogram(CHECKPOINT_BUCKETS)

    @property
    def connected_clients(self) -> int:
        """Registrations whose connection lives."""
        return len(self._registrations)

    def restore(self, run: RunFacts, totals: Totals, last: LastRound | None) -> None:
        """Take over what SQL knows of ``run``, to count on from there: its totals, and its last round if it has one.

        This comes before the first event that this process adds to the run.
        """
        self._clear_counts()
        self.run, self.last = run, last
        self.planned_rounds, self.min_updates = run.num_rounds, run.min_updates
        self.current_round = last.round if last else None
        self.rounds.update((status, totals.rounds.get(status, 0)) for status in w.ROUND_ENDS)
        for purpose, count in totals.connections.items():
            self.connections[purpose] += count
        for (direction, header, outcome), count in totals.messages.items():
            self.messages[direction, _one_of(w.HEADERS, header), outcome] += count
        for (direction, header), size in totals.message_bytes.items():
            self.message_bytes[direction, _one_of(w.HEADERS, header)] += size
        for decision, count in totals.updates.items():
            self.updates[decision] += count
        for reason, count in totals.rejected.items():
            self.rejected[rejected_reason(reason)] += count
        for reason, count in totals.dropouts.items():
            self._count_left(reason, count)
        self.rejoins, self.events = totals.rejoins, totals.events
        self.nodes.restore(totals)
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
        self.nodes.observe(event)
        _COUNTS.get(type(event), Tally._run_changed)(self, event)

    def _message_received(self, message: e.MessageReceived) -> None:
        self._count_message("in", message)

    def _message_sent(self, message: e.MessageSent) -> None:
        self._count_message("out", message)

    def _connection_closed(self, closed: e.ConnectionClosed) -> None:
        self.connections[closed.purpose] += 1

    def _client_registered(self, registered: e.ClientRegistered) -> None:
        self._registrations.add((registered.client_id, registered.registration))
        self.rejoins += registered.rejoined

    def _client_left(self, left: e.ClientLeft) -> None:
        self._registrations.discard((left.client_id, left.registration))
        self._count_left(left.reason, 1)

    def _suspect_rejected(self, suspect: e.SuspectRejected) -> None:
        self.round_updates -= 1
        self.updates["rejected"] += 1
        self.rejected[rejected_reason(suspect.reason)] += 1

    def _node_lost(self, lost: e.NodeLost) -> None:
        self.round_updates -= len(lost.updates)
        self.updates["lost"] += len(lost.updates)

    def _count_message(self, direction: w.Direction, message: e.MessageReceived | e.MessageSent) -> None:
        header = _one_of(w.HEADERS, message.header)
        self.messages[direction, header, message.outcome] += 1
        self.message_bytes[direction, header] += message.bytes

    def _count_strangers(self, summed: e.StrangersSummed) -> None:
        """Add what has no rows of its own; a stranger is answered ``<ERROR>``, if at all."""
        self.connections[summed.purpose] += summed.connections
        if summed.outcome is not None:
            header = _one_of(w.HEADERS, summed.header)
            self.messages["in", header, summed.outcome] += summed.messages
            self.message_bytes["in", header] += summed.message_bytes
        self.messages["out", "<ERROR>", "ok"] += summed.answers
        self.messages["out", "<ERROR>", "failed"] += summed.failed_answers
        self.message_bytes["out", "<ERROR>"] += summed.bytes_out

    def _count_left(self, reason: w.LeftReason, count: int) -> None:
        if reason not in w.ORDERLY_REASONS:
            self.dropouts[_one_of(w.DROPOUT_REASONS, reason)] += count

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
        self._observe_phase("aggregate", done.aggregate_seconds)
        self._observe_phase("evaluate", done.evaluate_seconds)
        self._observe_phase("checkpoint", done.checkpoint_seconds)
        self.checkpoint_seconds.observe(done.checkpoint_seconds)
        clients = {metric.name: metric.value for metric in done.metrics if metric.source == "clients"}
        self.last = LastRound(
            round=done.round,
            loss=done.loss,
            accuracy=done.accuracy,
            clients_loss=clients.get("loss"),
            clients_accuracy=clients.get("accuracy"),
            checkpoint_bytes=done.checkpoint_bytes,
            committed_at=utc_timestamp(done.at),
        )

    def _attempt_aborted(self, aborted: e.AttemptAborted) -> None:
        self.rounds["aborted"] += 1
        self._attempt_took(aborted, aborted.outcomes, "aborted")

    def _attempt_took(
        self, ended: e.RoundCommitted | e.AttemptAborted, outcomes: Iterable[e.ClientOutcome], decision: w.Decision
    ) -> None:
        self.round_seconds.observe(ended.seconds)
        self._observe_phase("broadcast", ended.broadcast_seconds)
        self._observe_phase("wait", ended.wait_seconds)
        for outcome in outcomes:
            if outcome.update_id is not None:
                self.updates[decision] += 1
            if outcome.seconds is not None:
                self.client_seconds.observe(outcome.seconds)

    def _observe_phase(self, phase: w.Phase, seconds: float | None) -> None:
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


def rejected_reason(reason: str | None) -> w.RejectedKind:
    """The kind that a rejected update's reason begins with."""
    return _one_of(w.REJECTED_KINDS, (reason or w.OTHER).partition(":")[0])


def _one_of(closed: Sequence[Word], value: str | None) -> Word:
    """The word of a closed set that ``value`` is, else its last one: that is ``other`` in each of them."""
    return closed[closed.index(value)] if value in closed else closed[-1]


_COUNTS: Mapping[type[e.Event], Callable[[Tally, Any], None]] = {
    e.ConnectionOpened: lambda tally, event: None,
    e.ConnectionClosed: Tally._connection_closed,
    e.StrangersSummed: Tally._count_strangers,
    e.MessageReceived: Tally._message_received,
    e.MessageSent: Tally._message_sent,
    e.ClientRegistered: Tally._client_registered,
    e.ClientLeft: Tally._client_left,
    e.UpdateReceived: Tally._update_received,
    e.SuspectRejected: Tally._suspect_rejected,
    e.NodeLost: Tally._node_lost,
    e.AttemptStarted: Tally._attempt_started,
    e.RoundCommitted: Tally._round_committed,
    e.AttemptAborted: Tally._attempt_aborted,
}
"""What each kind of event changes; the rest is the run's."""
