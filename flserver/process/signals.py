"""SIGTERM and Ctrl-C, as something that the main thread can wait for together with the end of the run."""

import contextlib
import os
import select
import signal
from types import FrameType
from typing import Protocol

from flserver.clock import monotonic
from flserver.errors import EXIT_INTERRUPTED

STANDARD_ERROR = 2
SAME_SIGNAL = 0.5  # seconds: timeout(1) and some shells signal the process, then its group, and mean one thing


class HasFileno(Protocol):
    """What can be waited for."""

    def fileno(self) -> int:
        """Its descriptor."""
        ...


class Signals:
    """Turns SIGTERM, SIGINT and the coordinator's end into bytes that the main thread waits for.

    A pipe, because a signal handler must not take a lock that its own thread may hold. A second signal ends the process
    at once: the database is then what it is after a crash. ``last_words`` go to standard error before that.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._count = 0
        self._first = 0.0
        self._name = ""
        self.last_words = ""
        self._hung_up = False
        self._before = {s: signal.signal(s, self._handle) for s in (signal.SIGTERM, signal.SIGINT)}

    def take_hang_ups(self) -> None:
        """From here on SIGHUP is something to wait for too, as often as it comes; before, it ends the process."""
        self._before.setdefault(signal.SIGHUP, signal.signal(signal.SIGHUP, self._handle))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            if not self._hung_up:  # one that waits to be seen tells of all
                self._hung_up = True
                os.write(self._write, b"h")
            return
        now = monotonic()
        self._count += 1
        if self._count == 1:
            self._first = now
        elif now - self._first > SAME_SIGNAL:
            with contextlib.suppress(OSError):
                os.write(STANDARD_ERROR, self.last_words.encode())
            os._exit(EXIT_INTERRUPTED)
        else:
            return
        self._name = signal.Signals(number).name
        os.write(self._write, b"s")

    @property
    def received(self) -> bool:
        """Whether a signal has come."""
        return self._count > 0

    def ended(self) -> None:
        """The coordinator has ended; callable from any thread."""
        os.write(self._write, b"e")

    def wait(self, seconds: float | None = None) -> str | None:
        """The name of a signal that came, or None where the coordinator ended or the time is up."""
        ready, _, _ = select.select([self._read], [], [], seconds)
        told = os.read(self._read, 1) if ready else b""
        if told == b"h":
            self._hung_up = False
        return {b"s": self._name, b"h": "SIGHUP"}.get(told)

    def wait_for(self, *others: HasFileno) -> None:
        """Wait until a signal has come, or one of the ``others`` can be read from; it is then there to be taken."""
        watched: list[int | HasFileno] = [self._read, *others]
        select.select(watched, [], [])

    def close(self) -> None:
        """Give the signals back to who had them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)
