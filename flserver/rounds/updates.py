"""The updates of one attempt: those that wait for their turn to be folded, and what is left of them at its end."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flserver.rounds.norms import settle
from flserver.rounds.seats import Attempt, Result, Seat, Upload
from flserver.wire.messages import Measurement

if TYPE_CHECKING:
    from flserver.models.state import State
    from flserver.rounds.committer import Committer


@dataclass(eq=False)
class Submission:
    """An upload with its tensors. ``release`` gives their memory back; nobody reads ``tensors`` after it."""

    upload: Upload
    tensors: "State"
    metrics: tuple[Measurement, ...]
    release: Callable[[], None]

    def add_to(self, committer: "Committer", samples: int) -> None:
        """Fold it, with so many samples; its memory is released, unless the strategy holds it. Raises
        StrategyError."""
        committer.add(self.tensors, samples)
        if not committer.holds:
            self.tensors = {}
            self.release()

    def take_back_from(self, committer: "Committer", samples: int) -> None:
        """It does not count; where updates are added as they arrive it was reserved for. Raises StrategyError."""
        if committer.on_arrival:
            committer.unreserve(self.tensors, samples)


Ready = list[tuple[Seat, Submission]]
"""Updates to be folded, in ascending order of the client ids."""


@dataclass
class Updates:
    """One attempt's updates that count: those that wait for their turn, and those that were taken to be folded, or
    folded as they arrived."""

    waiting: dict[str, Submission] = field(default_factory=dict)
    taken: dict[str, Submission] = field(default_factory=dict)
    _turns: deque[Seat] | None = None  # the seats whose turn has not been

    def put(self, submission: Submission, *, folded: bool) -> None:
        """One more counts."""
        (self.taken if folded else self.waiting)[submission.upload.client_id] = submission

    def take_next(self, attempt: Attempt) -> Ready:
        """Those whose turn it is: none with a smaller id can come before them any more.

        A client that left may still have an upload on the way, so while the attempt runs it is passed only with its
        answer, and a suspect when it is settled whether it counts.
        """
        ready: Ready = []
        if not self.waiting:
            return ready
        settle(attempt)
        if self._turns is None:
            self._turns = deque(attempt.seats.values())
        while self._turns:
            seat = self._turns[0]
            passed = seat.decision == "rejected" or seat.client_id in self.taken
            if not passed and (seat.client_id not in self.waiting or seat.pending):
                break
            self._turns.popleft()
            if not passed:
                ready.append((seat, self._take(seat)))
        return ready

    def take_rest(self, seats: Iterable[Seat]) -> Ready:
        """Those that were not taken before the attempt was over."""
        return [(seat, self._take(seat)) for seat in seats if seat.client_id in self.waiting]

    def drop(self, upload: Upload) -> None:
        """That one does not count any more."""
        for which in (self.waiting, self.taken):
            if (submission := which.get(upload.client_id)) is not None and submission.upload is upload:
                del which[upload.client_id]

    def _take(self, seat: Seat) -> Submission:
        submission = self.taken[seat.client_id] = self.waiting.pop(seat.client_id)
        return submission

    def release(self) -> None:
        """Give the memory of all of them back."""
        for submission in (*self.waiting.values(), *self.taken.values()):
            submission.release()


@dataclass(frozen=True)
class EndedAttempt:
    """An attempt that is over: how its seats ended, their updates, and who stopped the run, if somebody did."""

    results: list[Result]
    updates: Updates
    stopped_by: str | None
    quorum: int

    @property
    def accepted(self) -> list[Seat]:
        """The seats whose updates count, in ascending order of the client ids."""
        return [result.seat for result in self.results if result.seat.counts]

    @property
    def suspects(self) -> list[Seat]:
        """The seats whose update was suspect, in ascending order of the client ids."""
        return [result.seat for result in self.results if result.seat.suspicion is not None]

    @property
    def commits(self) -> bool:
        """Whether a round can be made of it."""
        return self.stopped_by is None and len(self.accepted) >= self.quorum
