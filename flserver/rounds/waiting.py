"""Whom a run waits for, and when that is worth saying. Pure: times are monotonic seconds that somebody else read."""

from dataclasses import dataclass
from typing import Final

from flserver.events.words import Awaited
from flserver.rounds.rules import Rounds

SAID_AFTER: Final = (10.0, 60.0, 300.0, 900.0, 3600.0)
"""Seconds of waiting after which it is said; from the last on, as often as that."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """What clients are waited for to do; None where nobody is.

    ``answered`` have done it, so many more are ``missing``; ``names`` are who has not, where that is known, as text for
    people; ``left_out`` says, after other text, who is there and not invited. ``closes_at`` is when the join window may
    close, in monotonic seconds.
    """

    awaited: Awaited | None = None
    answered: int = 0
    missing: int = 0
    names: tuple[str, ...] = ()
    left_out: str = ""
    closes_at: float | None = None

    def closes_in(self, now: float) -> float | None:
        """How many seconds the join window still takes; None where it has not begun or is past its end."""
        return self.closes_at - now if self.closes_at is not None and self.closes_at > now else None


def waiting(rounds: Rounds, *, stopping: bool = False) -> Waiting:
    """Whom a run that is not over waits for: to register, to answer, or to come back so that a round can begin; where
    it is ``stopping``, to hand in what they train."""
    if rounds.window.open:
        missing = max(0, rounds.window.needed - rounds.live)
        closes_at = rounds.window.closes_at
        return Waiting(
            awaited="registrations", answered=rounds.live, missing=missing, names=rounds.absent(), closes_at=closes_at
        )
    attempt = rounds.attempt
    if attempt is not None and not attempt.over:
        names = tuple(seat.client_id for seat in rounds.waited_for())
        answered = sum(seat.answered for seat in attempt.seats.values())
        return Waiting(awaited="updates", answered=answered, missing=len(names), names=names)
    if stopping:
        names = training(rounds)
        return Waiting(awaited="updates", missing=len(names), names=names) if names else Waiting()
    there = {participant.client_id for participant in rounds.invitable()}
    missing = max(0, (rounds.min_updates or 1) - len(there))
    if not missing:
        return Waiting()
    names = tuple(sorted(rounds.participants.keys() - there - rounds.left_out))
    shut_out = ", ".join(sorted(rounds.left_out))
    left_out = f"; left out, because the model with its update was implausible: {shut_out}"
    return Waiting(
        awaited="participants",
        answered=len(there),
        missing=missing,
        names=names,
        left_out=left_out if shut_out else "",
    )


def training(rounds: Rounds) -> tuple[str, ...]:
    """Who is there and has not answered the model that it was sent, in ascending order of the ids."""
    return tuple(sorted(p.client_id for p in rounds.participants.values() if p.training))


class Reminder:
    """When to say that a wait goes on that began at ``since``."""

    def __init__(self, since: float) -> None:
        self.since = since
        self._said = 0

    @property
    def at(self) -> float:
        """When it is to be said next."""
        beyond = max(0, self._said - len(SAID_AFTER) + 1)
        return self.since + SAID_AFTER[min(self._said, len(SAID_AFTER) - 1)] + beyond * SAID_AFTER[-1]

    def due(self, now: float) -> bool:
        """Whether it is to be said now; what was to be said meanwhile is said with it."""
        before = self._said
        while now >= self.at:
            self._said += 1
        return self._said > before
