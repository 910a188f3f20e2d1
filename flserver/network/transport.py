"""One frame over one socket: the only place that reads from and writes to trainers' sockets.

Errors of the operating system become ConnectionLost here, with the cause that ``dropouts_total`` counts.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import blake3

from flserver.clock import Deadline, monotonic, utc_now
from flserver.errors import ConnectionLost
from flserver.network.memory import ReceiveMemory, Room
from flserver.wire.framing import FrameReader, encode_length

PIECE = 1 << 20  # bytes a system call moves: large enough that the calls do not show, small enough to note progress
LAST_PIECE = 4096  # sent on its own, so that the moment before a trainer can have the whole model is known

KEEPALIVE_IDLE = 30
KEEPALIVE_INTERVAL = 10
KEEPALIVE_PROBES = 6


def tune(sock: socket.socket) -> None:
    """No delay for small frames; a peer whose machine vanished is noticed within about 90 seconds."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


@dataclass
class Received:
    """A frame as far as it came (monotonic seconds; ``bytes`` with the 8 of the length)."""

    reader: FrameReader
    room: Room | None = None
    started_at: float | None = None
    ended_at: float = 0.0
    ended_at_utc: str = ""
    hasher: "blake3.blake3" = field(default_factory=blake3.blake3)

    @property
    def bytes(self) -> int:
        return self.reader.bytes_received

    @property
    def digest(self) -> str | None:
        return "blake3:" + self.hasher.hexdigest() if self.reader.complete else None

    @property
    def seconds(self) -> float:
        return 0.0 if self.started_at is None else self.ended_at - self.started_at

    def hold(self) -> memoryview:
        """The whole body, out of scarce memory where need be."""
        if self.room is None:
            return self.reader.body
        self.room.hold()
        return self.room.view

    def settled(self) -> None:
        """The body was received and looked at, or will not be: the next one's turn."""
        if self.room is not None:
            self.room.leave_lane()

    def release(self) -> None:
        """Nobody reads the body any more."""
        if self.room is not None:
            self.room.release()


def receive_frame(
    sock: socket.socket, received: Received, memory: ReceiveMemory, first: Deadline, whole_seconds: float
) -> None:
    """Read one frame into ``received``, which says how far it came also where this raises.

    ``first`` is the deadline of the first byte; from there on the frame has ``whole_seconds``. Raises FrameRefused or
    ConnectionLost.
    """
    reader, deadline = received.reader, first
    try:
        while not reader.complete:
            if reader.needs_room:
                assert reader.length is not None
                received.room = memory.take(reader.length, deadline)
                reader.give_room(received.room.view)
            count = _receive_into(sock, reader.space()[:PIECE], deadline, reader.started)
            if received.started_at is None:
                received.started_at = monotonic()
                deadline = Deadline.after(whole_seconds)
            before = len(reader.body)
            reader.received(count)
            received.hasher.update(reader.body[before:])
    finally:
        received.ended_at, received.ended_at_utc = monotonic(), utc_now()


def _receive_into(sock: socket.socket, space: memoryview, deadline: Deadline, started: bool) -> int:
    where = "in the middle of a frame" if started else "before a frame"
    with _translated(where):
        sock.settimeout(max(deadline.remaining(), 0.001))
        count = sock.recv_into(space)
    if count == 0:
        raise ConnectionLost(f"end of file {where}", "closed")
    return count


@dataclass
class Progress:
    """How many bytes of a frame the system has taken, the length's included."""

    bytes: int = 0


def send_frame(
    sock: socket.socket,
    body: bytes | memoryview | bytearray,
    deadline: Deadline,
    before_last: Callable[[], None] = lambda: None,
    progress: Progress | None = None,
) -> None:
    """Send length and body. ``before_last`` is called once, just before the call that sends the last bytes.

    Raises ConnectionLost; ``progress`` says how far it came.
    """
    progress = progress or Progress()
    view = memoryview(body)
    cut = max(0, len(view) - LAST_PIECE)
    with _translated("while sending"):
        if cut:
            # Length and body in one vectored send: trainers take what one recv(8) returns as the whole length.
            head: Sequence[bytes | memoryview] = [encode_length(len(view)), view[: min(cut, PIECE)]]
            sock.settimeout(max(deadline.remaining(), 0.001))
            progress.bytes = sock.sendmsg(head)
            if progress.bytes < len(head[0]):  # a send buffer that takes anything takes eight bytes
                raise ConnectionLost("the length could not be sent in one piece")
            _send_all(sock, view[progress.bytes - len(head[0]) : cut], deadline, progress)
            before_last()
            _send_all(sock, view[cut:], deadline, progress)
        else:
            before_last()
            _send_all(sock, encode_length(len(view)) + bytes(view), deadline, progress)


def _send_all(sock: socket.socket, rest: memoryview | bytes, deadline: Deadline, progress: Progress) -> None:
    view = memoryview(rest)
    while view:
        sock.settimeout(max(deadline.remaining(), 0.001))
        sent = sock.send(view[:PIECE])
        progress.bytes += sent
        view = view[sent:]


@contextlib.contextmanager
def _translated(where: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise ConnectionLost(f"timed out {where}", "timeout") from error
    except (ConnectionResetError, BrokenPipeError, ConnectionAbortedError) as error:
        raise ConnectionLost(f"connection reset {where}", "reset") from error
    except OSError as error:
        raise ConnectionLost(f"{error.strerror or error} {where}", "other") from error


def peer_state(sock: socket.socket) -> str | None:
    """What a readable socket has to say, without taking it: None for data, else the cause of its end."""
    try:
        sock.settimeout(0)
        return None if sock.recv(1, socket.MSG_PEEK) else "closed"
    except BlockingIOError:
        return None
    except ConnectionResetError:
        return "reset"
    except TimeoutError:
        return "timeout"
    except OSError:
        return "other"
