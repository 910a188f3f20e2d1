"""From the updates of an attempt to a committed round: aggregate, evaluate, checkpoint, record."""

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from flserver import events
from flserver.clock import monotonic
from flserver.errors import StoreError, StrategyError, TooDifferent, one_line
from flserver.events import KeptUpdate, NodeHead, RoundMetric
from flserver.events.bus import Recorder
from flserver.models.retention import MadeRound, comparable, going
from flserver.rounds.model import CurrentModel
from flserver.rounds.outcomes import AttemptFacts, aborted, client_means, outcomes, phases, sent_to
from flserver.rounds.seats import Attempt, Seat
from flserver.rounds.updates import EndedAttempt, Updates
from flserver.rounds.weights import heaviest

if TYPE_CHECKING:  # torch is not there yet when trainers register
    from flserver.aggregation import State, Strategy
    from flserver.models.checkpoints import Checkpoints
    from flserver.models.evaluation import Evaluator
    from flserver.models.kept import Kept

logger = logging.getLogger(__name__)


def nothing_elsewhere(attempt: Attempt, strategy: "Strategy") -> None:
    """All updates were added to this strategy."""


class Implausible(Exception):
    """The updates of an attempt make no model that could be meant; ``str`` says why."""


class Committer:
    """Makes rounds of one run. For one thread, but for what is done with updates that are added on arrival.

    ``made`` are the run's committed rounds whose checkpoints are on disk; ``keep`` is how many of them stay besides
    the best, and 0 keeps all. ``on_arrival`` says whether updates may be added in any order, as they arrive, from
    several threads at once. ``kept`` is where updates are kept, if they are. ``meanwhile`` is called with a new model
    while its checkpoint is being written: for what can be made ready and is not to be seen before it is committed.
    ``gathers`` brings into the strategy what was folded elsewhere, or gives the new state at once; ``node_heads`` are
    of the events from there.
    """

    def __init__(
        self,
        *,
        process_id: int,
        recorder: Recorder,
        strategy: "Strategy",
        evaluator: "Evaluator | None",
        checkpoints: "Checkpoints",
        keep: int,
        made: Sequence[MadeRound] = (),
        kept: "Kept | None" = None,
        meanwhile: "Callable[[State], object]" = lambda state: None,
        gathers: "Callable[[Attempt, Strategy], State | None]" = nothing_elsewhere,
        node_heads: Callable[[], tuple[NodeHead, ...]] = tuple,
    ) -> None:
        self._node_heads = node_heads
        self._meanwhile, self._gathers = meanwhile, gathers
        self._gathered: State | None = None
        self._process_id = process_id
        self._recorder = recorder
        self._strategy = strategy
        strategy.may_hold = True
        self.on_arrival = strategy.on_arrival
        self._evaluator = evaluator
        self._checkpoints = checkpoints
        self._keep = keep
        self._kept = kept
        self._round = 0  # that is being made
        self.made = list(made)
        self._warned = False

    @property
    def holds(self) -> bool:
        """Whether the update that was added last must stay where it is until the commit."""
        return self._strategy.holds

    def commit_initial(self, state: "State", attempt: int) -> CurrentModel:
        """Round 0: the initial model, checkpointed, evaluated and committed like any other.

        ``attempt`` counts from 1. Raises StoreError or CheckpointError.
        """
        started = Attempt(0, attempt, monotonic(), monotonic())
        self._recorder.emit(
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
            model = self._make_durable(started, state, AttemptFacts())
        except BaseException:
            with contextlib.suppress(StoreError):  # then it is the record that failed
                self._recorder.emit(aborted(started, "failed", monotonic(), ()))
            raise
        self._recorder.flush()
        return model

    def begin(self, model: CurrentModel) -> None:
        """A new attempt starts from the last committed model. Raises StrategyError."""
        self._round = model.round + 1
        with _strategy_errors:
            self._strategy.begin(model.state)

    def reserve(self, update: "State", n: int) -> None:
        """Make sure that an update can be added. Raises TooDifferent where it cannot, and StrategyError."""
        with _strategy_errors:
            self._strategy.reserve(update, n)

    def unreserve(self, update: "State", n: int) -> None:
        """An update that could be added will not be. Raises StrategyError."""
        with _strategy_errors:
            self._strategy.unreserve(update, n)

    def add(self, update: "State", n: int) -> None:
        """Fold the next update that counts, of a client with ``n`` samples; in ascending order of the client ids,
        unless they are added ``on_arrival``.

        Raises StrategyError.
        """
        with _strategy_errors:
            self._strategy.add(update, n)

    def keep(self, update_id: int, update: "State") -> None:
        """Write an update that counts so far to the disk, where updates are kept. Raises CheckpointError."""
        if self._kept is not None:
            from flserver.aggregation.checks import state_digest

            self._kept.keep(self._round, update_id, update, state_digest(update))

    def forget(self, updates: Updates) -> None:
        """The attempt whose ``updates`` these are is aborted: give their memory back, and what was kept of them."""
        updates.release()
        self._gathered = None
        if self._kept is not None:
            self._kept.forget(self._round)

    def gather(self, attempt: Attempt, ended: EndedAttempt) -> None:
        """Bring together all that counts of an attempt that is over, and was added, before it is committed: what was
        folded elsewhere, and is lost there, counts no more. Raises StrategyError."""
        for seat, submission in ended.updates.take_rest(ended.suspects):  # who were rejected at last
            submission.take_back_from(self, seat.counted_size)
        with _strategy_errors:
            self._gathered = self._gathers(attempt, self._strategy)

    def commit(self, base: CurrentModel, attempt: Attempt, ended: EndedAttempt, ended_at: float) -> CurrentModel:
        """Commit the round of an attempt at ``base`` that ended at ``ended_at`` (monotonic), with the updates added.

        Returns the new global model. The caller flushes the record before anyone sees it. Raises Implausible, and
        StrategyError, CheckpointError or StoreError.
        """
        state = self._new_state(base)
        aggregated = monotonic() - ended_at
        broadcast, wait = phases(attempt, ended_at)
        measured = [(seat.counted_size, ended.updates.taken[seat.client_id].metrics) for seat in ended.accepted]
        facts = AttemptFacts(
            clients=sent_to(ended.results),
            data_size=sum(seat.counted_size for seat in ended.accepted),
            broadcast_seconds=broadcast,
            wait_seconds=wait,
            aggregate_seconds=aggregated,
            client_means=client_means(base.round, measured),
            outcomes=outcomes(ended.results, committed=True),
            kept=self._settle_kept(attempt.round, ended.accepted),
        )
        self._warn_of_weight(attempt, ended)
        return self._make_durable(attempt, state, facts, base)

    def _settle_kept(self, round: int, accepted: Sequence[Seat]) -> tuple[KeptUpdate, ...]:
        if self._kept is None:
            return ()
        places = self._kept.settle(round, [seat.update_id for seat in accepted if seat.update_id is not None])
        return tuple(KeptUpdate(update_id=update_id, path=path) for update_id, path in places.items())

    def _warn_of_weight(self, attempt: Attempt, ended: EndedAttempt) -> None:
        """Say once who has nearly all of the weight: that may be as it should, or somebody who says what it likes."""
        found = None if self._warned else heaviest([(seat.client_id, seat.weight) for seat in ended.accepted])
        if found is not None:
            self._warned = True
            self._recorder.emit(
                events.WeightConcentrated(
                    round=attempt.round,
                    attempt=attempt.number,
                    owner=found.owner,
                    clients=found.clients,
                    weight=found.share,
                )
            )

    def _new_state(self, base: CurrentModel) -> "State":
        from flserver.aggregation.checks import implausible
        from flserver.models.state import check_same_layout

        with _strategy_errors:
            state, self._gathered = self._gathered or self._strategy.finish(), None
            check_same_layout(base.state, state, "the strategy's new model")
        if (why := implausible(state)) is not None:
            self._take_back(base)
            raise Implausible(why)
        return {name: state[name] for name in base.state}

    def _take_back(self, base: CurrentModel) -> None:
        """The strategy's own tensors become again what they were with ``base``: the last checkpoint has them."""
        if self._own_state():
            _, own = self._checkpoints.read(self.made[-1].checkpoint, base.digest)
            with _strategy_errors:
                self._strategy.load_state(own)

    def _own_state(self) -> "State":
        with _strategy_errors:
            return self._strategy.state()

    def _make_durable(
        self, attempt: Attempt, state: "State", facts: AttemptFacts, base: CurrentModel | None = None
    ) -> CurrentModel:
        """Promise 3: the checkpoint is durable, then its round is committed. What reads the model only is done
        meanwhile."""
        from flserver.aggregation.steps import step_of

        with self._checkpoints.writing(attempt.round, state, self._own_state()) as writing:
            evaluating = monotonic()
            values = self._evaluator.evaluate(state, attempt.round) if self._evaluator is not None else {}
            evaluated = monotonic()
            step = step_of(base.state, state) if base is not None else None
            self._meanwhile(state)
        written, done = writing.result(), monotonic()
        loss, accuracy = values.get("loss"), values.get("accuracy")
        own = tuple(RoundMetric(round=attempt.round, name=n, value=v, source="evaluate") for n, v in values.items())
        self._recorder.emit(
            events.RoundCommitted(
                round=attempt.round,
                attempt=attempt.number,
                clients=facts.clients,
                seconds=done - attempt.started_at,
                broadcast_seconds=facts.broadcast_seconds,
                wait_seconds=facts.wait_seconds,
                aggregate_seconds=facts.aggregate_seconds,
                evaluate_seconds=evaluated - evaluating if self._evaluator is not None else None,
                checkpoint_seconds=written.seconds,
                data_size=facts.data_size,
                model_digest=written.digest,
                checkpoint=written.path,
                checkpoint_bytes=written.size,
                loss=loss,
                accuracy=accuracy,
                metrics=own + facts.client_means,
                outcomes=facts.outcomes,
                arithmetic=self._strategy.arithmetic,
                kept=facts.kept,
                nodes=self._node_heads(),
            )
        )
        known = (comparable(loss), comparable(accuracy))
        self.made.append(MadeRound(attempt.round, attempt.number, written.path, *known))
        return CurrentModel(attempt.round, state, written.digest, step)

    def prune(self) -> None:
        """Delete the checkpoints and the kept updates that need not stay, after that is on record. Call when the newest
        round is durable."""
        pruned = going(self.made, self._keep)
        old = self._kept.going(self.made[-1].round) if self._kept is not None and self.made else []
        if not pruned and not old:
            return
        self.made = [made for made in self.made if made not in pruned]
        for made in pruned:
            deleted = events.CheckpointDeleted(round=made.round, attempt=made.attempt, checkpoint=made.checkpoint)
            self._recorder.emit(deleted)
        for round in old:
            self._recorder.emit(events.KeptUpdatesDeleted(round=round))
        self._recorder.flush()
        for made in pruned:
            self._checkpoints.delete(made.checkpoint)
        for round in old:
            self._kept.delete(round)  # type: ignore[union-attr]


class _StrategyErrors:
    """A strategy may be somebody's own: where it fails, the run fails, and its author sees where."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, TooDifferent):
            logger.error("the strategy failed", exc_info=error)
            raise StrategyError(f"the strategy failed: {one_line(error)}") from error


_strategy_errors = _StrategyErrors()
