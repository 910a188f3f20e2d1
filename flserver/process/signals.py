"""SIGTERM and Ctrl-C, as something that the main thread can wait for together with the end of the run."""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from flserver.clock import monotonic
from flserver.errors import EXIT_INTERRUPTED

STANDARD_ERROR = 2
SAME_SIGNAL = 0.5  # seconds: timeout(1) and some shells signal the process, then its group, and mean one thing
STOPS = frozenset({signal.SIGTERM, signal.SIGINT})


class HasFileno(Protocol):
    """What can be waited for."""

    def fileno(self) -> int:
        """Its descriptor."""
        ...


class Sender(NamedTuple):
    """The process that sent a signal, and its user, by their numbers."""

    pid: int
    uid: int


class Signals:
    """Turns SIGTERM, SIGINT and the coordinator's end into bytes that the main thread waits for.

    The signals are blocked in every thread, and one thread waits for them, because only who waits is told who sent
    them. A second one ends the process at once: the database is then what it is after a crash. ``last_words`` go to
    standard error before that. ``sender`` is who sent the last one that was heeded, None where that is unknown: the
    terminal, or somebody outside this container.

    Threads begin with what is blocked where they are started: what begins before this does so within :func:`unheard`.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._count = 0
        self._first = 0.0
        self._name = ""
        self.last_words = ""
        self.sender: Sender | None = None
        self._hung_up = False
        self._closing = False
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        _blocked_here.update(STOPS - self._before)
        self._thread = threading.Thread(target=self._watch, name="signals")
        self._thread.start()

    def take_hang_ups(self) -> None:
        """From here on SIGHUP is something to wait for too, as often as it comes; before, it ends the process."""
        if signal.SIGHUP not in signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP}):
            _blocked_here.add(signal.SIGHUP)

    def _watch(self) -> None:
        awaited = {*STOPS, signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
        while True:
            told = signal.sigwaitinfo(awaited)
            if self._closing:
                return
            # The kernel's own, such as a terminal's, have a code above 0; a sender out of sight has no number.
            sender = Sender(told.si_pid, told.si_uid) if told.si_code <= 0 and told.si_pid else None
            self._handle(told.si_signo, sender)

    def _handle(self, number: int, sender: Sender | None) -> None:
        if number == signal.SIGHUP:
            if not self._hung_up:  # one that waits to be seen tells of all
                self._hung_up, self.sender = True, sender
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
        self._name, self.sender = signal.Signals(number).name, sender
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
        self._closing = True
        assert self._thread.ident is not None, "it was started"
        signal.pthread_kill(self._thread.ident, signal.SIGTERM)
        self._thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)
        _blocked_here.clear()
        os.close(self._read)
        os.close(self._write)


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """A thread that begins within the block hears none of the signals, so that :class:`Signals` does."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*STOPS, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_blocked_here: set[signal.Signals] = set()


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _blocked_here)


os.register_at_fork(after_in_child=_unblock)  # a child that is forked has no thread that waits
