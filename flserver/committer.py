"""From the updates of an attempt to a committed round: aggregate, evaluate, checkpoint, record.

Holds what a round starts from: the last committed round, its model and digest. Used by the coordinator's thread only.
"""

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence

from flserver import events
from flserver.aggregation import State, Strategy
from flserver.clock import monotonic
from flserver.errors import StoreError, StrategyError, one_line
from flserver.events import ClientOutcome, RoundMetric
from flserver.events.bus import Bus
from flserver.models.checkpoint import CheckpointStore
from flserver.models.evaluation import Evaluator
from flserver.models.retention import MadeRound, going
from flserver.models.state import check_same_layout
from flserver.rounds import Attempt, Result
from flserver.wire.messages import Measurement

logger = logging.getLogger(__name__)

CLIENT_MEANS = ("loss", "accuracy")


class Committer:
    """Makes rounds of one run. ``kept`` are its committed rounds so far; ``keep`` 0 keeps every checkpoint."""

    def __init__(
        self,
        *,
        run_id: str,
        process_id: int,
        bus: Bus,
        strategy: Strategy,
        evaluator: Evaluator | None,
        checkpoints: CheckpointStore,
        keep: int,
        model: State,
        round: int = -1,
        digest: str | None = None,
        kept: Sequence[MadeRound] = (),
    ) -> None:
        self.run_id = run_id
        self._process_id = process_id
        self._bus = bus
        self._strategy = strategy
        self._evaluator = evaluator
        self._checkpoints = checkpoints
        self._keep = keep
        self._kept = list(kept)
        self.model = model
        self.round = round
        self.digest = digest

    @property
    def streams(self) -> bool:
        """Whether an update may be forgotten once it was added."""
        return self._strategy.needs == "stream"

    def commit_initial(self, attempt: int) -> None:
        """Round 0: the initial model, checkpointed, evaluated and committed like any other."""
        started = Attempt(0, attempt, monotonic(), monotonic())
        self._bus.emit(
            events.AttemptStarted(
                round=0,
                attempt=attempt,
                process_id=self._process_id,
                clients=(),
                not_sent=(),
                deadline_at=None,
                base_digest=None,
            )
        )
        try:
            self._record(started, self.model)
        except BaseException:
            with contextlib.suppress(StoreError):  # then it is the record that failed
                self._bus.emit(aborted(started, "failed", monotonic(), ()))
            raise
        self._bus.flush()

    def begin(self) -> None:
        """A new attempt starts from the last committed model."""
        with _strategy_errors():
            self._strategy.begin(self.model)

    def add(self, update: State, n: int) -> None:
        """The next update that counts; ascending order of the client ids."""
        with _strategy_errors():
            self._strategy.add(update, n)

    def _mean(self) -> State:
        with _strategy_errors():
            model = self._strategy.finish()
            check_same_layout(self.model, model, "the strategy's new model")
            return {name: model[name] for name in self.model}

    def commit(
        self,
        *,
        attempt: Attempt,
        ended_at: float,
        results: Sequence[Result],
        measured: Sequence[tuple[int, tuple[Measurement, ...]]],
    ) -> None:
        """Commit the attempt's round with the updates added. The caller flushes the bus before anyone sees it.

        ``results`` is how the seats ended, at ``ended_at`` (monotonic); ``measured`` pairs each accepted update's
        data_size with what its client measured.
        """
        model = self._mean()
        aggregated = monotonic() - ended_at
        broadcast, wait = phases(attempt, ended_at)
        self._record(
            attempt,
            model,
            clients=sent_to(results),
            data_size=sum(result.seat.data_size for result in results if result.seat.answer == "counts"),
            broadcast_seconds=broadcast,
            wait_seconds=wait,
            aggregate_seconds=aggregated,
            client_means=_client_means(self.round, measured),
            outcomes=outcomes(results, committed=True),
        )

    def _record(
        self,
        attempt: Attempt,
        model: State,
        *,
        clients: int = 0,
        data_size: int = 0,
        broadcast_seconds: float | None = None,
        wait_seconds: float | None = None,
        aggregate_seconds: float | None = None,
        client_means: tuple[RoundMetric, ...] = (),
        outcomes: tuple[ClientOutcome, ...] = (),
    ) -> None:
        evaluating = monotonic()
        values = self._evaluator.evaluate(model, attempt.round) if self._evaluator is not None else {}
        evaluated = monotonic()
        written = self._checkpoints.write(attempt.round, model, self._strategy.state())
        done = monotonic()
        loss, accuracy = values.get("loss"), values.get("accuracy")
        own = tuple(RoundMetric(round=attempt.round, name=n, value=v, source="evaluate") for n, v in values.items())
        self._bus.emit(
            events.RoundCommitted(
                round=attempt.round,
                attempt=attempt.number,
                clients=clients,
                seconds=done - attempt.started_at,
                broadcast_seconds=broadcast_seconds,
                wait_seconds=wait_seconds,
                aggregate_seconds=aggregate_seconds,
                evaluate_seconds=evaluated - evaluating if self._evaluator is not None else None,
                checkpoint_seconds=done - evaluated,
                data_size=data_size,
                model_digest=written.digest,
                checkpoint=written.path,
                checkpoint_bytes=written.size,
                loss=loss,
                accuracy=accuracy,
                metrics=own + client_means,
                outcomes=outcomes,
            )
        )
        self.model, self.round, self.digest = model, attempt.round, written.digest
        self._kept.append(MadeRound(attempt.round, attempt.number, written.path, loss, accuracy))

    def prune(self) -> None:
        """Delete checkpoints beyond the newest ``keep`` and the best. Call when the newest round is durable."""
        pruned = going(self._kept, self._keep)
        if not pruned:
            return
        self._kept = [made for made in self._kept if made not in pruned]
        for made in pruned:
            self._bus.emit(events.CheckpointDeleted(round=made.round, attempt=made.attempt, checkpoint=made.checkpoint))
        self._bus.flush()
        for made in pruned:
            self._checkpoints.delete(made.checkpoint)


@contextlib.contextmanager
def _strategy_errors() -> Iterator[None]:
    """A strategy may be somebody's own: where it fails, the run fails, and its author sees where."""
    try:
        yield
    except Exception as error:
        logger.exception("the strategy failed")
        raise StrategyError(f"the strategy failed: {one_line(error)}") from error


def _client_means(round: int, measured: Sequence[tuple[int, tuple[Measurement, ...]]]) -> tuple[RoundMetric, ...]:
    """Means over the clients, weighted by data_size, of what they measured on the model they received: ``round``'s."""
    means = []
    for name in CLIENT_MEANS:
        pairs = [
            (n, m.value) for n, metrics in measured for m in metrics if (m.name, m.measured_on) == (name, "received")
        ]
        if pairs:
            total = sum(n for n, _ in pairs)
            mean = math.fsum(n / total * value for n, value in pairs)
            means.append(RoundMetric(round=round, name=name, value=mean, source="clients"))
    return tuple(means)


def aborted(attempt: Attempt, reason: str, ended: float, results: Sequence[Result]) -> events.AttemptAborted:
    """The end of an attempt without a round, at ``ended`` (monotonic)."""
    broadcast_seconds, wait_seconds = phases(attempt, ended)
    return events.AttemptAborted(
        round=attempt.round,
        attempt=attempt.number,
        clients=sent_to(results),
        reason=reason,
        seconds=ended - attempt.started_at,
        broadcast_seconds=broadcast_seconds,
        wait_seconds=wait_seconds,
        outcomes=outcomes(results, committed=False),
    )


def phases(attempt: Attempt, ended: float) -> tuple[float | None, float | None]:
    """Seconds from an attempt's start to the last model fully sent, and from then to its end; None where none was."""
    sent = [seat.sent.fully_sent_at for seat in attempt.seats.values() if seat.sent and seat.sent.fully_sent_at]
    if not sent:
        return None, None
    last = min(max(sent), ended)
    return last - attempt.started_at, ended - last


def sent_to(results: Sequence[Result]) -> int:
    """How many clients the whole model was handed over to."""
    return sum(result.seat.sent is not None and result.seat.sent.handed_over_at is not None for result in results)


def outcomes(results: Sequence[Result], *, committed: bool) -> tuple[ClientOutcome, ...]:
    """What is put on record of each seat; weights only where the attempt is committed."""
    total = sum(result.seat.data_size for result in results if result.seat.answer == "counts")
    return tuple(_outcome(result, total if committed else None) for result in results)


def _outcome(result: Result, total: int | None) -> ClientOutcome:
    seat = result.seat
    counts = seat.answer == "counts"
    handed_over = seat.sent.handed_over_at if seat.sent is not None else None
    return ClientOutcome(
        client_id=seat.client_id,
        participation=result.participation,
        update_id=seat.update_id if counts else None,
        weight=seat.data_size / total if counts and total is not None else None,
        seconds=None if seat.answered_at is None or handed_over is None else seat.answered_at - handed_over,
    )
