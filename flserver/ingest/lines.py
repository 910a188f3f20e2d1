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
from flserver.ingest.outbox import Outbox

logger = logging.getLogger(__name__)

ENDED = "its process ended"  # or it has closed its end, which only a process that ends does
IDLE = 3600.0  # seconds; only a bound: what is said, and the end, wakes who takes
LENGTH = 8
MOST = 1 << 40  # bytes of a batch: a length beyond that is none
BUFFER = 1 << 16


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
    return view if _fill(sock, view) else None


def _fill(sock: socket.socket, view: memoryview) -> bool:
    """Receive as many bytes; False where the line ends before."""
    done = 0
    while done < len(view):
        if not (got := _received(sock, view[done:])):
            return False
        done += got
    return True


def _received(sock: socket.socket, view: memoryview) -> int:
    """How many bytes came; 0 where the line has ended."""
    try:
        return sock.recv_into(view)
    except OSError:
        return 0


class Incoming:
    """The batches that come over a socket: of small ones several with one call of the system, which each gives the
    interpreter away."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = memoryview(bytearray(BUFFER))
        self._begin = self._end = 0  # what has come and is in no batch yet

    def next(self) -> memoryview | None:
        """The next batch, in memory of its own; None where the line ends before it is whole."""
        while (came := self._end - self._begin) < LENGTH or (length := self._length()) > came - LENGTH:
            if came >= LENGTH and length > BUFFER - LENGTH:
                return None if length > MOST else self._long(length)
            if self._end == BUFFER or not came:  # to the beginning, over what nobody needs any more
                self._buffer[:came] = self._buffer[self._begin : self._end].tobytes()
                self._begin, self._end = 0, came
            if not (got := _received(self._socket, self._buffer[self._end :])):
                return None
            self._end += got
        begin = self._begin + LENGTH
        self._begin = begin + length
        return memoryview(self._buffer[begin : self._begin].tobytes())

    def _length(self) -> int:
        return int.from_bytes(self._buffer[self._begin : self._begin + LENGTH], "big")

    def _long(self, length: int) -> memoryview | None:
        """One that is longer than the buffer."""
        batch = memoryview(bytearray(length))
        came = self._buffer[self._begin + LENGTH : self._end]
        batch[: len(came)] = came
        self._begin = self._end = 0
        return batch if _fill(self._socket, batch[len(came) :]) else None


class End(Protocol):
    """A node, or its place at the desk."""

    @property
    def outbox(self) -> Outbox: ...

    def take(self, timeout: float) -> bytes: ...

    def give(self, batch: bytes | memoryview) -> None: ...


class LineEnd:
    """One end of a line. ``ended`` is called once, on a thread of its own, when the other one is
    gone, with what is known of why; ``over`` says whether this end has nothing more to say. Where the other one takes
    nothing of what is said for ``patience`` seconds, it is gone too.

    What somebody waits for is said by who has it, as far as the system takes it at once: all else, and the rest, by a
    thread of the line's own."""

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
        self._outbox = end.outbox
        self._turn = threading.Lock()  # of who takes batches and sends them; guards the next
        self._rest: list[memoryview] = []  # what the system did not take at once
        self._why = ENDED
        self._patience = patience
        if patience is not None:
            set_patience(sock, patience)
        self._reader = threading.Thread(target=self._read, name=f"line-in-{name}")
        self._writer = threading.Thread(target=self._write, name=f"line-out-{name}")

    def start(self) -> None:
        """Begin to carry."""
        self._outbox.speak = self._speak
        self._writer.start()
        self._reader.start()  # it may be over at once, and who hears of that may close

    def _read(self) -> None:
        incoming = Incoming(self._socket)
        try:
            while (batch := incoming.next()) is not None:
                self._end.give(batch)
                del batch  # a model or a sum may be in it, and the next one may not come for long
        except BatchError as error:
            self._why = str(error)
        except Exception as error:
            logger.exception("what came over the line could not be taken")
            self._why = f"what it said could not be taken: {error!r}"
        self._ended(self._why)

    # --- what is said ------------------------------------------------------------------------------------------------

    def _speak(self) -> None:
        """Say what somebody waits for, if nobody speaks: who does looks again afterwards."""
        while self._outbox.hurried and self._turn.acquire(blocking=False):
            try:
                if self._rest:
                    return  # the writer's turn, which waits
                if not self._could(self._say):
                    return
                if self._rest:
                    self._outbox.wake()
            finally:
                self._turn.release()

    def _write(self) -> None:
        while self._could(self._say_all):
            self._outbox.wait(IDLE)

    def _say_all(self) -> bool:
        """Say what there is to say, if it takes long. False where nothing more is to be said."""
        with self._turn:
            said = self._say()
            while self._rest:
                self._socket.sendall(self._rest[0])
                del self._rest[0]
            if said or not self._over():
                return True
        self._socket.shutdown(socket.SHUT_WR)
        return False

    def _say(self) -> bool:
        """Say the next batch as far as the system takes it at once, unless there is a rest. Whether there was one."""
        if self._rest or not (batch := self._end.take(0.0)):
            return bool(self._rest)
        pieces = [memoryview(len(batch).to_bytes(LENGTH, "big")), memoryview(batch)]
        self._rest = pieces
        try:
            sent = self._socket.sendmsg(pieces, (), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        head, body = pieces
        self._rest = [rest for rest in (head[sent:], body[max(0, sent - LENGTH) :]) if rest]
        return True

    def _could(self, say: Callable[[], bool]) -> bool:
        """What ``say`` says; False where nothing can be said any more, and the line ends."""
        try:
            return say()
        except BlockingIOError:
            self._why = f"it has taken nothing of what it was told for {self._patience:g} s"
            self.cut()
        except OSError as error:  # the other end is gone: its reader says so
            logger.debug("nothing more can be said: %s", error)
        except Exception as error:
            logger.exception("what is to be said over the line cannot be")
            self._why = f"what it was to be told could not be said: {error!r}"
            self.cut()
        return False

    def cut(self) -> None:
        """End the line at once, whatever is still to be said. May be called again, and by any thread."""
        with contextlib.suppress(OSError):  # it is closed
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Carry what is still to be said, for which this end's outbox has to be closed, then end the line, and join its
        threads, as far as they have begun."""
        if self._writer.ident is not None:
            self._writer.join()
        self.cut()
        if self._reader.ident is not None:
            self._reader.join()
        self._socket.close()
