"""From the updates of an attempt to a committed round: aggregate, evaluate, checkpoint, record.

Holds what a round starts from: the last committed round, its model and digest. Used by the coordinator's thread only.
"""

import contextlib
import logging
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
from flserver.rounds.outcomes import _client_means, aborted, outcomes, phases, sent_to
from flserver.wire.messages import Measurement

logger = logging.getLogger(__name__)


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
