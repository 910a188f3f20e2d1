"""How a run ends before its time, and what its trainers are told."""

from dataclasses import dataclass

from flserver.clock import Deadline
from flserver.events.words import LeftReason


class Interrupted(Exception):
    """The run cannot go on now; ``str`` says why."""


@dataclass(frozen=True)
class Farewell:
    """The run is over, for all or for this one: say goodbye and close. ``stopped`` is an end in the run's middle."""

    reason: LeftReason

    @property
    def refusal(self) -> str:
        """What a trainer is told that registers after it."""
        if self.reason == "stopped":
            return "The server is stopping before the run is complete. Register again when it is back"
        return "The run is over. You cannot participate now"


@dataclass(frozen=True)
class Stop:
    """Somebody asked for the end of the run: what runs has until ``deadline`` to end by itself."""

    reason: str
    deadline: Deadline
