"""How long a node is waited for, and that nobody waits for a hung one when the run is to end."""

from collections.abc import Callable
from typing import Final

from flserver.clock import Deadline, monotonic

BEYOND_STOP: Final = 30.0
"""Seconds beyond the grace of a stop: with the default grace of 30 s it is over well before a service manager's 120."""
LOOK_SECONDS: Final = 1.0  # between two looks at whether somebody has asked for the end


class Patience:
    """So many ``seconds`` from now on, and less where ``stops_at`` gives an end that somebody has asked for."""

    def __init__(self, seconds: float, stops_at: Callable[[], float | None]) -> None:
        self._deadline, self._stops_at = Deadline.after(seconds), stops_at

    @property
    def left(self) -> float:
        """For how long to wait before that is looked at again; 0 where it is over."""
        stop, end = self._stops_at(), self._deadline.at
        return min(LOOK_SECONDS, max(0.0, (end if stop is None else min(end, stop + BEYOND_STOP)) - monotonic()))
