"""Whether the head of a Ray cluster is there, which has in memory all that Ray knows of its machines and actors, and
whether who listens could be one.

Once it is gone, Ray ends every process that uses the cluster after a minute, the server's too, without a word.
"""

import contextlib
import socket
import threading
from collections.abc import Callable

from flserver.clock import Deadline, monotonic

LOOK_SECONDS = 2.0
GONE_SECONDS = 10.0  # of connections that it does not take: less than it takes to be started anew

HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # RFC 9113, 3.4; no settings
FRAME_HEAD = 9  # bytes: three of length, a type, flags, four of a stream
SETTINGS = b"\4\0\0\0\0\0"  # their type, no flag, of the whole connection


def speaks_as_one(connection: socket.socket, seconds: float) -> bool:
    """Whether who took the connection begins, within so many seconds, to speak what a head does: HTTP/2, whose server
    says its settings first. For that it needs no token, and nothing of it is left there."""
    deadline, said = Deadline.after(seconds), b""
    with contextlib.suppress(OSError):
        connection.sendall(HELLO)
        while len(said) < FRAME_HEAD:
            connection.settimeout(deadline.remaining())
            if not (more := connection.recv(FRAME_HEAD - len(said))):
                break
            said += more
    return len(said) == FRAME_HEAD and said[3:] == SETTINGS


class Head:
    """Asks ``address`` from ``start`` on; ``gone`` is told why, once, when nobody takes a connection there any more."""

    def __init__(self, address: str, gone: Callable[[str], None]) -> None:
        host, _, port = address.rpartition(":")
        self._address, self._at = address, (host.strip("[]"), int(port))
        self._gone = gone
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ray-head")
        self.is_gone = False

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def close(self) -> None:
        """Ask no more. May be called again, and without ``start``."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _watch(self) -> None:
        there = monotonic()
        while not self._stopped.wait(LOOK_SECONDS):
            if self._answers():
                there = monotonic()
            elif monotonic() - there > GONE_SECONDS:
                self.is_gone = True
                self._gone(
                    f"the head of the Ray cluster, {self._address}, is gone, and what Ray knew of the nodes with it: "
                    "start Ray anew on all machines, and go on with --resume"
                )
                return

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(self._at, timeout=LOOK_SECONDS):
            return True
        return False
