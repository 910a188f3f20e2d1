"""A line between a node and its place at the desk over a stream socket, such as a socket pair between two processes.

It carries batches each way, on a thread each way at each end. Where it ends, the node is gone to the desk, and the desk
to the node.
"""

import contextlib
import logging
import socket
import struct
import threading
from collections.abc import Callable
from typing import Protocol

from flserver.ingest.batches import BatchError

logger = logging.getLogger(__name__)

IDLE = 3600.0  # seconds; only a bound: what is said, and the end, wakes who takes
LENGTH = 8
MOST = 1 << 40  # bytes of a batch: a length beyond that is none


def set_patience(sock: socket.socket, seconds: float) -> None:
    """What is sent fails where nothing of it is taken for so long: of the system, for each piece that it takes. Reading
    is not bounded by it."""
    whole, rest = divmod(seconds, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(whole), int(1e6 * rest)))


def send_first(sock: socket.socket, body: bytes) -> None:
    """What is said before all batches."""
    with contextlib.suppress(OSError):  # the other end is gone: its reader says so
        sock.sendall(len(body).to_bytes(LENGTH, "big") + body)


def receive_first(sock: socket.socket) -> memoryview:
    """The same, at the other end. Raises EOFError where it does not come."""
    head = _exactly(sock, LENGTH)
    body = None if head is None else _exactly(sock, int.from_bytes(head, "big"))
    if body is None:
        raise EOFError("the line ended before it began")
    return body


def _exactly(sock: socket.socket, count: int) -> memoryview | None:
    """So many bytes; None where the line ends before."""
    view = memoryview(bytearray(count))
    done = 0
    while done < count:
        try:
            got = sock.recv_into(view[done:])
        except OSError:
            return None
        if got == 0:
            return None
        done += got
    return view


class End(Protocol):
    """A node, or its place at the desk."""

    def take(self, timeout: float) -> bytes: ...

    def give(self, batch: bytes | memoryview) -> None: ...


class LineEnd:
    """One end of a line. ``ended`` is called once, on a thread of its own, when the other one is
    gone, with what is known of why; ``over`` says whether this end has nothing more to say. Where the other one takes
    nothing of what is said for ``patience`` seconds, it is gone too."""

    def __init__(
        self,
        sock: socket.socket,
        end: End,
        name: str,
        *,
        ended: Callable[[str], None],
        over: Callable[[], bool],
        patience: float | None = None,
    ) -> None:
        self._socket, self._end, self._ended, self._over = sock, end, ended, over
        self._why = "its process ended"  # or it has closed its end, which only a process that ends does
        self._patience = patience
        if patience is not None:
            set_patience(sock, patience)
        self._reader = threading.Thread(target=self._read, name=f"line-in-{name}")
        self._writer = threading.Thread(target=self._write, name=f"line-out-{name}")

    def start(self) -> None:
        """Begin to carry."""
        self._writer.start()
        self._reader.start()  # it may be over at once, and who hears of that may close

    def _read(self) -> None:
        try:
            while (head := _exactly(self._socket, LENGTH)) is not None:
                length = int.from_bytes(head, "big")
                if length > MOST or (batch := _exactly(self._socket, length)) is None:
                    break
                self._end.give(batch)
                del batch  # a model or a sum may be in it, and the next one may not come for long
        except BatchError as error:
            self._why = str(error)
        except Exception as error:
            logger.exception("what came over the line could not be taken")
            self._why = f"what it said could not be taken: {error!r}"
        self._ended(self._why)

    def _write(self) -> None:
        try:
            while True:
                if batch := self._end.take(IDLE):
                    self._socket.sendall(len(batch).to_bytes(LENGTH, "big"))
                    self._socket.sendall(batch)
                    del batch  # as above
                elif self._over():
                    self._socket.shutdown(socket.SHUT_WR)
                    return
        except BlockingIOError:
            self._why = f"it has taken nothing of what it was told for {self._patience:g} s"
            self.cut()
        except OSError as error:  # the other end is gone: its reader says so
            logger.debug("nothing more can be said: %s", error)
        except Exception as error:
            logger.exception("what is to be said over the line cannot be")
            self._why = f"what it was to be told could not be said: {error!r}"
            self.cut()

    def cut(self) -> None:
        """End the line at once, whatever is still to be said. May be called again, and by any thread."""
        with contextlib.suppress(OSError):  # it is closed
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Carry what is still to be said, for which this end's outbox has to be closed, then end the line, and join its
        threads."""
        self._writer.join()
        self.cut()
        self._reader.join()
        self._socket.close()
