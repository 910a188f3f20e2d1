"""Which updates are too far from the model that was sent: ``--max-update-norm``. Pure.

A number is a bound on an update's whole norm. ``auto`` has no bound to begin with but one that nobody trains beyond;
when some rounds are committed, what is a thousand times as far as every update accepted so far is *suspect*, parameters
and buffers each by their own history. A model that takes such a step for a good reason takes it at all clients: so it
is decided when it is certain how many suspects a round has. Where they are half of those who are there, or more, all of
them count, else none does. That depends on what was sent, and not on what came first.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from flserver.events.words import rejected
from flserver.models.norms import Norms
from flserver.rounds.seats import Attempt, Seat
from flserver.settings import MaxUpdateNorm

BEYOND_ALL: Final = 1e18
FACTOR: Final = 1e3
FIRST_ROUNDS: Final = 3
NOTHING: Final = Norms(0.0, 0.0)
LEAST: Final = 1.0  # the largest norm so far counts as this at least: a run may begin with steps of nearly nothing


@dataclass(frozen=True)
class NormHistory:
    """How many rounds of a run have accepted updates, and the largest of their norms."""

    rounds: int = 0
    largest: Norms = NOTHING

    def after(self, accepted: Iterable[Norms]) -> "NormHistory":
        """The history with one round more, in which these were accepted. What is not finite is no measure."""
        all_norms = [self.largest, *accepted]
        return NormHistory(
            self.rounds + 1,
            Norms(
                max(norms.parameters for norms in all_norms if math.isfinite(norms.parameters)),
                max(norms.buffers for norms in all_norms if math.isfinite(norms.buffers)),
            ),
        )


class NormRule:
    """What ``limit`` says of an update after the rounds in ``history``."""

    def __init__(self, limit: MaxUpdateNorm) -> None:
        self._limit = limit
        self.history = NormHistory()

    def too_far(self, norms: Norms | None) -> str | None:
        """Why an update is rejected as soon as it comes, whatever the others send; None where it is not."""
        if norms is None or self._limit == "off":
            return None
        if self._limit != "auto":
            return _more("norm", norms.whole, self._limit, "--max-update-norm")
        return _more("norm", norms.whole, BEYOND_ALL, "which nobody trains")

    def suspicion(self, norms: Norms | None) -> str | None:
        """Why an update is suspect; None where it is not."""
        if norms is None or self._limit != "auto" or self.history.rounds < FIRST_ROUNDS:
            return None
        largest, how = self.history.largest, f"{FACTOR:g} times the largest of this run so far"
        return _more("norm", norms.parameters, FACTOR * max(largest.parameters, LEAST), how) or _more(
            "buffers' norm", norms.buffers, FACTOR * max(largest.buffers, LEAST), how
        )

    def committed(self, accepted: Sequence[Seat]) -> None:
        """A round was made of the updates of these; of none it is the initial model."""
        if accepted:
            self.history = self.history.after(seat.norms for seat in accepted if seat.norms is not None)


def settle(attempt: Attempt) -> None:
    """Decide on an attempt's suspects, as soon as that is certain; for certain where it is over.

    Half is half of those who are there, also of who was not sent this model: else it would be enough to keep the others
    busy for a round.
    """
    if not attempt.suspected:
        return
    suspects = [seat for seat in attempt.seats.values() if seat.suspicion is not None]
    to_come = 0 if attempt.over else sum(not seat.answered for seat in attempt.seats.values())
    # Those that count may be in the sum: that another one of them is lost with its node changes nothing any more.
    if any(seat.settled and seat.counts for seat in suspects) or 2 * len(suspects) >= attempt.there:
        for seat in suspects:
            seat.settled = True
    elif 2 * (len(suspects) + to_come) < attempt.there:
        for seat in suspects:
            seat.settled, seat.decision = True, "rejected"


def _more(which: str, norm: float, most: float, why: str) -> str | None:
    return rejected("norm", f"the {which} {norm:.4g} is more than {most:.4g}, {why}") if norm > most else None
