"""The coordinator's wait for the join window's end, and what is said meanwhile: few lines, however many register."""

import math
from collections.abc import Callable
from typing import Final

from flserver import events
from flserver.clock import monotonic
from flserver.events.bus import Recorder
from flserver.rounds.exchange import Exchange
from flserver.rounds.join_window import Stage
from flserver.rounds.waiting import Reminder, Waiting
from flserver.settings import RoundPolicy

WORTH_SAYING: Final = 1.0
"""Seconds that the window has to be open for yet, for it to be said."""
SAID_AGAIN: Final = 60.0
"""Seconds before which the same is not said again, where clients come and go."""
EMPTY: Final = "nobody is there any more: a join window opens with the next client"


def await_window(
    exchange: Exchange, recorder: Recorder, remind: Callable[[Reminder], None], policy: RoundPolicy
) -> None:
    """Wait for the window's end; ``remind`` is called where it is past its time and a reminder may be due. Raises
    Interrupted."""
    seen, reminder, said = Stage(), Reminder(math.inf), Said()
    while (stage := exchange.wait_in_window(seen, reminder.at)) is not None:
        if stage == seen:
            remind(reminder)
            continue
        if not seen.short or not stage.short:  # it is past its end now, or a registration has moved that
            reminder = Reminder(monotonic() if stage.short else math.inf)
        waiting, now = exchange.waiting, monotonic()
        if stage.short:
            recorder.emit(events.StateChanged(state="joining", detail=short_of(stage.short, waiting)))
        elif said.is_new(stage, now):
            left = waiting.closes_in(now) or 0.0
            if not stage.open:
                recorder.emit(events.StateChanged(state="joining", detail=EMPTY))
            elif left >= WORTH_SAYING:
                detail = opened(waiting, left, exchange.model.round + 1, policy)
                recorder.emit(events.StateChanged(state="joining", detail=detail))
        seen = stage


class Said:
    """When it was said of a window that it is open, that enough are there, and that nobody is any more: clients that
    come and go make no more lines. Pure."""

    def __init__(self) -> None:
        self._at: dict[Stage, float] = {}

    def is_new(self, stage: Stage, now: float) -> bool:
        """Whether a window's ``stage`` is to be said; it is remembered as said."""
        if now < self._at.get(stage, -math.inf) + SAID_AGAIN:
            return False
        self._at[stage] = now
        return True


def short_of(short: int, waiting: Waiting) -> str:
    """That a window stays open past its end, for so many more."""
    missing = f"; not there: {', '.join(waiting.names)}" if waiting.names else ""
    return f"{short} more client{'s' * (short > 1)} needed by --min-clients or --min-updates{missing}"


def opened(waiting: Waiting, left: float, round: int, policy: RoundPolicy) -> str:
    """That a window is open for the seconds that are ``left``, and how many are there."""
    needed, there, seconds = policy.min_clients, waiting.answered, f"{left:,.0f} s"
    if waiting.missing:
        missing = f"; not there: {', '.join(waiting.names)}" if waiting.names else ""
        return f"join window: {seconds} from now; {there} of {there + waiting.missing} clients there{missing}"
    enough = f"all {needed} of --min-clients are there"
    who = enough if needed > 1 else f"{there:,} client{'s' * (there > 1)} there"
    until = "or as soon as all on the roster are in" if waiting.names else "more may join until then"
    until += ", and each moves that" * (policy.join_window == "sliding")
    return f"{who}: round {round} begins in {seconds}; {until}"
