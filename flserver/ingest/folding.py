"""The node's side of folding: the desk decides, and what counts is added here, into the node's own part of the round.

What is suspect waits here too, until the desk says that it counts. Where the strategy takes updates in an order, or all
of them, those that count stay here until the attempt's end. An update is held against the model that the node has;
where the running attempt has another by then, the desk says so, the node has it already, and looks again.
"""

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flserver.clock import monotonic
from flserver.errors import ConnectionLost, StoreError, StrategyError, TooDifferent, one_line
from flserver.ingest import questions as q
from flserver.ingest import told as t
from flserver.ingest.asking import Asking, Waiting, error_of
from flserver.ingest.faults import said_of
from flserver.rounds.model import CurrentModel
from flserver.rounds.seats import SentModel, Upload, Verdict
from flserver.rounds.updates import Submission

if TYPE_CHECKING:
    from flserver.aggregation import State, Strategy
    from flserver.aggregation.ranges import Counted
    from flserver.models.kept import Kept


QUICK = 1 << 20  # bytes of an update that is added sooner than threads change: some 100 µs


@dataclass(frozen=True)
class Layout:
    """What an update is inspected with besides the model, as ``aggregation.checks.inspect`` says."""

    tied: Mapping[str, str]
    buffers: Collection[str]


class NodeFolding:
    """Implements ``rounds.door.Folds``. ``model`` gives the running attempt's."""

    asks = True

    def __init__(self, asking: Asking, model: Callable[[], CurrentModel]) -> None:
        self._asking, self._model = asking, model
        self.strategy: Strategy | None = None  # None until the layout is known; nothing counts before
        self.layout = Layout({}, ())
        self.kept: Kept | None = None  # where updates are kept, if they are
        self._asked: dict[int, Waiting] = {}  # ahead, by the update's id
        self._lock = threading.Lock()  # guards the three below
        self._waiting: dict[int, tuple[Submission, int]] = {}
        self._counted: dict[int, tuple[Submission, int]] = {}  # that count, and stay
        self._folded = 0
        self.running: tuple[int, int] | None = None  # the attempt, its round first
        self.answered: dict[str, tuple[int, int]] = {}  # during which attempt a client's last upload was whole

    @property
    def on_arrival(self) -> bool:
        """Whether an update that counts need not wait: it is added to this node's part of the round."""
        return self.strategy is None or self.strategy.splits

    # --- for sessions ------------------------------------------------------------------------------------------------

    def came(self, client_id: str) -> None:
        """As ``rounds.door.Folds.came``: where nobody can be asked any more, the client is idle."""
        if self.running is not None:
            self.answered[client_id] = self.running

    def ask(self, submission: Submission) -> Waiting:
        """As ``rounds.door.Folds.ask``."""
        waiting = self._asking.ask_ahead(_offer(submission.upload))
        self._asked[submission.upload.update_id] = waiting
        return waiting

    def is_quick(self, submission: Submission) -> bool:
        """As ``rounds.door.Folds.is_quick``: a small one, which is not kept nor looked at again."""
        asked = self._asked.get(submission.upload.update_id)
        if self.kept is not None or asked is None or not isinstance(asked.answer, q.Decided | q.Failure):
            return False
        return sum(tensor.nbytes for tensor in submission.tensors.values()) <= QUICK

    def offer(self, submission: Submission) -> Verdict:
        """As ``rounds.folding.Folding.offer``."""
        verdict = self._decided(submission)
        if not verdict.counts:
            return verdict
        assert self.strategy is not None
        if not self.on_arrival:
            return verdict
        assert verdict.counted_size is not None
        upload = submission.upload
        try:
            self.strategy.reserve(submission.tensors, verdict.counted_size)
        except TooDifferent as error:
            from flserver.aggregation.checks import rejected

            refused = self._asking.ask(q.Reject(upload.update_id, rejected("size", str(error))), q.Decided)
            return _verdict(refused)
        except BaseException as error:
            self.fail(error)
            self._asking.tell(t.Withdrawn(upload.update_id))
            raise StrategyError(f"the strategy failed: {one_line(error)}") from error
        return verdict

    def _decided(self, submission: Submission) -> Verdict:
        while True:
            asked = self._asked.pop(submission.upload.update_id, None)
            answer = asked.wait() if asked is not None else self._asking.ask_any(_offer(submission.upload))
            if isinstance(answer, q.Decided):
                return _verdict(answer)
            if isinstance(answer, q.Failure):
                raise error_of(answer)
            self._look_again(submission)

    def _look_again(self, submission: Submission) -> None:
        """Hold an update against the model that has come meanwhile."""
        from flserver.aggregation.checks import inspect

        model, upload = self._model(), submission.upload
        if model.round == upload.base_round:
            raise ConnectionLost("this node could not begin with the model of the running attempt")
        found = inspect(submission.tensors, model.state, self.layout.tied, self.layout.buffers, model.step)
        submission.upload = replace(
            upload, rejection=found.rejection, norms=found.norms, cosine=found.cosine, base_round=model.round
        )

    def withdraw(self, submission: Submission, verdict: Verdict) -> None:
        """As ``rounds.folding.Folding.withdraw``."""
        try:
            if verdict.counts and self.on_arrival:
                assert self.strategy is not None
                assert verdict.counted_size is not None
                self.strategy.unreserve(submission.tensors, verdict.counted_size)
        finally:
            self._asking.tell(t.Withdrawn(submission.upload.update_id))

    def confirm(self, submission: Submission, verdict: Verdict) -> None:
        """As ``rounds.folding.Folding.confirm``; a suspect waits here, and all that the strategy takes
        later."""
        folds = verdict.counts and not verdict.suspect and self.on_arrival
        update_id, metrics = submission.upload.update_id, submission.metrics if verdict.counts else ()
        kept = None
        try:
            if verdict.counts:
                kept = self._keep(submission, verdict)
            if folds:
                self._add(submission, verdict)
            elif verdict.counts:
                assert verdict.counted_size is not None
                with self._lock:
                    self._waiting[update_id] = submission, verdict.counted_size
        except BaseException as error:  # the coordinator's to raise: it costs the run, and is not this peer's doing
            self.fail(error)
            if not isinstance(error, Exception):
                raise
        finally:
            if folds or not verdict.counts:
                submission.tensors = {}
                submission.release()
            # The last one of those that are here may be the one that the round waits for.
            self._asking.tell(t.Confirmed(update_id, folds, metrics, kept), hurried=not self._asked)

    def _keep(self, submission: Submission, verdict: Verdict) -> str | None:
        """Write an update that counts so far, where updates are kept; its digest then. Raises CheckpointError."""
        if self.kept is None or verdict.answers is None:
            return None
        from flserver.aggregation.checks import state_digest

        digest = state_digest(submission.tensors)
        self.kept.keep(verdict.answers.round, submission.upload.update_id, submission.tensors, digest)
        return digest

    def _add(self, submission: Submission, verdict: Verdict) -> None:
        assert self.strategy is not None
        assert verdict.counted_size is not None
        self.strategy.add(submission.tensors, verdict.counted_size)
        with self._lock:
            self._folded += 1

    def fail(self, error: BaseException) -> None:
        """Something of ours failed: it costs the run, or this node."""
        self._asking.tell(said_of(error))

    # --- for the desk ------------------------------------------------------------------------------------------------

    def begin(self, state: "State") -> None:
        """An attempt begins from that model: forget the one before."""
        assert self.strategy is not None
        self.drop([*self._waiting, *self._counted], reserved=False)
        with self._lock:
            self._folded = 0
        if self.on_arrival:
            self.strategy.begin(state)

    def fold(self, update_ids: Collection[int]) -> None:
        """These that wait count."""
        assert self.strategy is not None
        for submission, samples in self._take(update_ids):
            if self.on_arrival:
                self.strategy.add(submission.tensors, samples)
                submission.tensors = {}
                submission.release()
            with self._lock:
                self._folded += 1
                if not self.on_arrival:
                    self._counted[submission.upload.update_id] = submission, samples

    def drop(self, update_ids: Collection[int], *, reserved: bool = True) -> None:
        """These that wait do not count, or those that stay are needed no more."""
        assert self.strategy is not None
        for submission, samples in self._take(update_ids):
            if reserved and self.on_arrival:
                self.strategy.unreserve(submission.tensors, samples)
            submission.tensors = {}
            submission.release()

    def _take(self, update_ids: Collection[int]) -> list[tuple[Submission, int]]:
        with self._lock:
            found = [self._waiting.pop(one, None) or self._counted.pop(one, None) for one in update_ids]
        return [one for one in found if one is not None]

    def counted(self) -> "list[Counted]":
        """The updates that count, and stay here."""
        from flserver.aggregation.ranges import Counted

        with self._lock:
            there = list(self._counted.values())
        return [Counted(one.upload.client_id, samples, one.tensors) for one, samples in there]

    def tensors(self, update_id: int) -> "State":
        """One of these. Raises StoreError where it is not here."""
        with self._lock:
            found = self._counted.get(update_id)
        if found is None:
            raise StoreError(f"update {update_id} is not at this node")
        return found[0].tensors

    @property
    def folded(self) -> int:
        """How many updates were, in this attempt."""
        with self._lock:
            return self._folded


def _offer(upload: Upload) -> q.Offer:
    return q.Offer(
        update_id=upload.update_id,
        client_id=upload.client_id,
        peer=upload.peer,
        connection=int(upload.accepted_at),
        digest=upload.digest,
        rejection=upload.rejection,
        norms=upload.norms,
        cosine=upload.cosine,
        base_round=upload.base_round,
    )


def _verdict(decided: q.Decided) -> Verdict:
    answers = decided.answers
    sent = None if answers is None else SentModel(answers.round, answers.attempt)
    if sent is not None and answers is not None and answers.ago is not None:
        sent.hand_over(monotonic() - answers.ago)  # a duration, told; the moment is this machine's
    return Verdict(
        decision=decided.decision,
        reason=decided.reason,
        answers=sent,
        data_size=decided.data_size,
        arrived_round=decided.arrived_round,
        counted_size=decided.counted_size,
        suspect=decided.suspect,
    )
