"""How an update gets into the round's sum: on the thread that brings it, where the strategy takes any order.

A session offers what it received and puts on record what was decided; then ``Folding`` folds it, and only when that has
ended may the attempt end (``Attempt.recording``). So a sum is never another attempt's than the update's, whatever ends
the attempt meanwhile. The exchange's lock is not held while anything is folded.

Suspects, of which it is settled later whether they count, and all updates of a strategy that takes them in ascending
order, or all at the end, are left to the coordinator.
"""

from typing import TYPE_CHECKING

from flserver.errors import TooDifferent
from flserver.rounds.exchange import Exchange
from flserver.rounds.seats import Verdict
from flserver.rounds.updates import Submission

if TYPE_CHECKING:
    from flserver.rounds.committer import Committer


def _released() -> None: ...


class Folding:
    """Takes the updates that sessions bring. For many threads, once it has the ``committer``."""

    committer: "Committer"
    asks = False

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    @property
    def on_arrival(self) -> bool:
        """Whether an update that counts need not wait for its turn."""
        return self.committer.on_arrival

    def came(self, client_id: str) -> None:
        """Nobody has to know of it before it is decided: where that cannot be, the run ends."""

    def ask(self, submission: Submission) -> None:
        """Nobody is asked."""

    def is_quick(self, submission: Submission) -> bool:
        """It is nobody's who asked."""
        return False

    def offer(self, submission: Submission) -> Verdict:
        """Decide what it is. ``confirm`` or ``withdraw`` has to follow.

        Raises RegistrationRefused or IdentityRefused, and StrategyError, which ends the run.
        """
        verdict = self._exchange.offer(submission.upload)
        if not verdict.counts or not self.on_arrival:
            return verdict
        try:
            assert verdict.counted_size is not None
            self.committer.reserve(submission.tensors, verdict.counted_size)
        except TooDifferent as error:
            from flserver.aggregation.checks import rejected  # torch is not there yet when trainers register

            return self._exchange.reject_update(submission.upload, verdict, rejected("size", str(error)))
        except BaseException as error:
            self._exchange.fail(error)
            self._exchange.withdraw_update(submission.upload, verdict)
            raise
        return verdict

    def withdraw(self, submission: Submission, verdict: Verdict) -> None:
        """What was decided could not be put on record; the memory stays the caller's to release."""
        try:
            if verdict.counts and self.on_arrival:
                assert verdict.counted_size is not None
                self.committer.unreserve(submission.tensors, verdict.counted_size)
        finally:  # the attempt waits for that
            self._exchange.withdraw_update(submission.upload, verdict)

    def confirm(self, submission: Submission, verdict: Verdict) -> None:
        """What was decided is on record: keep what counts, where updates are kept, and fold it. Its memory is released,
        here or by the coordinator."""
        folds = verdict.counts and not verdict.suspect and self.on_arrival
        try:
            if verdict.counts:
                self.committer.keep(submission.upload.update_id, submission.tensors)
            if folds:
                assert verdict.counted_size is not None
                self.committer.add(submission.tensors, verdict.counted_size)
        except BaseException as error:  # the coordinator's to raise: it costs the run, and is not this peer's doing
            self._exchange.fail(error)
            if not isinstance(error, Exception):
                raise
        finally:
            if folds:
                submission.tensors = {}
                submission.release()
                submission.release = _released  # what it came in is gone before the round's end, however small
            self._exchange.confirm_update(submission, verdict, folded=folds)
