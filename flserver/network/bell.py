"""What wakes a thread that polls: one descriptor where the system has eventfd, which Linux has, else a socket pair."""

import os
import socket
import sys
import threading
from contextlib import suppress

HAS_EVENTFD = hasattr(os, "eventfd")
DESCRIPTORS = 1 if HAS_EVENTFD else 2
ONE = (1).to_bytes(8, sys.byteorder)  # the number that an eventfd is given; to a socket pair it is bytes like others


class Bell:
    """Rung by any thread, heard by the one that polls its descriptor. Raises OSError where there is no descriptor."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _open: a descriptor that was closed is somebody else's by then
        self._open = True
        self._in, self._out = _eventfd() if HAS_EVENTFD else _socket_pair()

    def fileno(self) -> int:
        """Readable from a ring on, until it is hushed."""
        return self._in

    def ring(self) -> None:
        """Never waits; one that is closed is heard by nobody."""
        with self._lock, suppress(BlockingIOError):  # full: it rings already
            if self._open:
                os.write(self._out, ONE)

    def hush(self) -> None:
        """It was heard: quiet until it is rung again."""
        with suppress(BlockingIOError):
            os.read(self._in, 4096)

    def close(self) -> None:
        with self._lock:
            self._open = False
            for descriptor in {self._in, self._out}:
                os.close(descriptor)


def _eventfd() -> tuple[int, int]:
    descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    return descriptor, descriptor


def _socket_pair() -> tuple[int, int]:
    heard, rung = socket.socketpair()
    for end in (heard, rung):
        end.setblocking(False)
    return heard.detach(), rung.detach()
