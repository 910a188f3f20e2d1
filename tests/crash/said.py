"""What the server of a run and its nodes say to each other, counted by kind; at one such thing somebody is killed.

Nothing of ours is in the way but the ends of the lines: what is said is counted where it is taken to be carried, or is
brought, so a run comes to the same things again as far as it says the same.
"""

import mmap
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from flserver.ingest.batches import from_bytes

Victim = Literal["node", "server"]
Moment = Literal["before saying", "after saying", "before hearing", "after hearing"]
MOMENTS: tuple[Moment, ...] = ("before saying", "after saying", "before hearing", "after hearing")


@dataclass(frozen=True, order=True)
class Word:
    """The ``victim`` is killed at the ``number``-th of its ``kind`` (a class of ``ingest.questions`` or of
    ``ingest.told``) that it says or hears, counted from 1: before or after it has done so."""

    victim: Victim
    kind: str
    moment: Moment
    number: int

    def __str__(self) -> str:
        return f"the {self.victim} {self.moment} {self.kind} {self.number}"


class Counted:
    """What one process says and hears, on all of its lines. ``strike`` is called at ``word``; what is counted goes to
    ``tally`` too, a line each, where there is one."""

    def __init__(self, word: Word | None, strike: Callable[[], object], tally: int | None = None) -> None:
        self._word, self._strike, self._tally = word, strike, tally
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, bool]] = Counter()

    def is_at(self, batch: bytes | memoryview, *, saying: bool) -> bool:
        """Count what a batch has in it; whether the word is among that."""
        if not batch:
            return False
        at = False
        for item in from_bytes(batch):
            kind = type(item.said).__name__
            with self._lock:
                self._counts[kind, saying] += 1
                number = self._counts[kind, saying]
            if self._tally is not None:
                os.write(self._tally, f"{kind} {'saying' if saying else 'hearing'}\n".encode())
            word = self._word
            at = at or (
                word is not None
                and (word.kind, word.number) == (kind, number)
                and word.moment.endswith("saying") == saying
            )
        return at

    def strike_if(self, at: bool, moment: Literal["before", "after"]) -> None:
        """Strike where it is time."""
        if at and self._word is not None and self._word.moment.startswith(moment):
            self._strike()


class CountedEnd:
    """An end of a line (``ingest.lines.End``), or a place that calls bring batches to: takes and gives as ``end``."""

    def __init__(self, end: Any, counted: Counted) -> None:
        self._end, self._counted = end, counted
        self._said = False  # the word is in the batch that was taken last, which has gone when the next is asked for

    @property
    def outbox(self) -> Any:
        return self._end.outbox

    def take(self, timeout: float) -> bytes:
        self._counted.strike_if(self._said, "after")
        self._said = False
        batch: bytes = self._end.take(timeout)
        self._said = self._counted.is_at(batch, saying=True)
        self._counted.strike_if(self._said, "before")
        return batch

    def give(self, batch: bytes | memoryview) -> None:
        at = self._counted.is_at(batch, saying=False)
        self._counted.strike_if(at, "before")
        self._end.give(batch)
        self._counted.strike_if(at, "after")


def watch_lines(counted: Counted) -> None:
    """From now on, in this process, what goes over lines is counted."""
    from flserver.ingest.lines import LineEnd

    begin = LineEnd.__init__

    def begun(line: Any, sock: Any, end: Any, *given: Any, **named: Any) -> None:
        begin(line, sock, CountedEnd(end, counted), *given, **named)

    LineEnd.__init__ = begun  # type: ignore[method-assign]


class Struck:
    """Whether somebody was, as all processes see that are forked from here."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def __bool__(self) -> bool:
        return self._byte[:1] == b"x"

    def kill(self) -> None:
        """End this process, which is the one."""
        self._byte[:1] = b"x"
        os.kill(os.getpid(), signal.SIGKILL)
