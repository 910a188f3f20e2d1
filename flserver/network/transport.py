"""One frame over one connection: reading and writing, in the time that a peer is given.

Errors of the operating system and of TLS become ConnectionLost here, with the cause that ``dropouts_total`` counts.
"""

import contextlib
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import blake3

from flserver.clock import Deadline, monotonic, utc_now
from flserver.errors import ConnectionLost, Refused
from flserver.network.channel import Channel, Piece, cause_of
from flserver.network.memory import Room
from flserver.wire.framing import LENGTH_BYTES, OPENING_BYTES, FrameReader, encode_length
from flserver.wire.repeats import Repeats

PIECE = 1 << 20  # bytes a system call moves: large enough that the calls do not show, small enough to note progress
LAST_PIECE = 4096  # sent on its own, so that the moment before a trainer can have the whole model is known
LOOK_SECONDS = 1.0  # how often somebody who waits to send looks whether what is sent is still wanted

KEEPALIVE_PROBES = 6
HANDED_DOWN = sys.platform == "linux"
"""Whether an accepted socket has the options of the one that listened: then nobody need set them on each."""


def tune(sock: socket.socket, peer_timeout: float) -> None:
    """No delay for small frames; a peer whose machine vanished is noticed within about ``peer_timeout`` seconds."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", max(1, round(peer_timeout / 3))),
        ("TCP_KEEPINTVL", max(1, round(peer_timeout * 2 / 3 / KEEPALIVE_PROBES))),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        # Keepalive is silent while something sent waits for its acknowledgement; this is not.
        ("TCP_USER_TIMEOUT", max(1, round(peer_timeout * 1000))),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What a peer owes while a frame is on its way: ``rate`` bytes a second over every ``window`` seconds, and all of
    it within ``whole`` seconds. Only time in which we wait for the peer counts."""

    whole: float
    rate: float = 0.0
    window: float = 30.0


class Watch:
    """Holds one frame's peer to its pace."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._left = pace.whole
        self._begin_window()

    def _begin_window(self) -> None:
        self._window_left, self._window_bytes = self._pace.window, 0

    @property
    def patience(self) -> float:
        """Seconds that may be waited now."""
        return min(self._left, self._window_left)

    def waited(self, seconds: float, count: int, where: str) -> None:
        """``count`` bytes came, or went, after ``seconds``. Raises ConnectionLost where the peer is behind."""
        self._left -= seconds
        self._window_left -= seconds
        self._window_bytes += count
        if self._left <= 0:
            raise ConnectionLost(f"timed out {where}", "timeout")
        if self._window_left <= 0:
            pace = self._pace
            if self._window_bytes < pace.rate * pace.window:
                said = f"slower than {pace.rate:g} bytes a second for {pace.window:g} s"
                raise ConnectionLost(f"{said} {where}", "timeout")
            self._begin_window()


@dataclass
class Received:
    """A frame as far as it came (monotonic seconds; ``bytes`` with the 8 of the length).

    Where ``repeats`` is set, what repeats in the body is taken out of it while it arrives.
    """

    reader: FrameReader
    room: Room | None = None
    repeats: Repeats | None = None
    started_at: float | None = None
    ended_at: float = 0.0
    ended_at_utc: str = ""
    hasher: "blake3.blake3" = field(default_factory=blake3.blake3)

    @property
    def bytes(self) -> int:
        """Bytes on the wire so far."""
        return self.reader.bytes_received

    @property
    def digest(self) -> str | None:
        """That of the whole body; None where it is not whole."""
        return "blake3:" + self.hasher.hexdigest() if self.reader.complete else None

    @property
    def seconds(self) -> float:
        """From its first byte to its last so far."""
        return 0.0 if self.started_at is None else self.ended_at - self.started_at

    def hold(self, *, waits: bool = True) -> memoryview:
        """The whole body. Where it ``waits`` for others, the next one may come meanwhile, and where memory is scarce it
        lies in a file."""
        if self.room is None:
            return self.reader.body
        size = self.reader.kept_bytes
        self.room.hold(size, waits=waits)
        return self.room.view[:size]

    def settled(self) -> None:
        """Nobody needs the body in memory any more, or it waits there: the next one's turn."""
        if self.room is not None:
            self.room.leave_lane()

    def release(self) -> None:
        """Nobody reads the body any more."""
        if self.room is not None:
            self.room.release()


def receive_frame(
    channel: Channel, received: Received, room_for: Callable[[int], Room], first: Deadline, pace: Pace
) -> None:
    """Read one frame into ``received``, which says how far it came also where this raises.

    ``first`` is the deadline of the first byte; from there on the peer is held to ``pace``. ``room_for`` gives room for
    a long body, or raises Refused: then the body is read to its end all the same, without keeping it, because a trainer
    whose upload is cut off ends, and the refusal is raised after it. Raises FrameRefused, ConnectionLost or that.
    """
    reader, watch, refusal = received.reader, Watch(pace), None
    try:
        while not reader.complete:
            try:
                space = _space(received, room_for)
            except Refused as error:
                refusal = error
                reader.discard()
                received.release()
                received.room = None
                continue
            count = _receive_some(channel, space, received, first, watch)
            digested = space[:count] if reader.length is not None else b""
            reader.received(count)
            received.hasher.update(digested)
            if received.repeats is not None and refusal is None:
                reader.shorten(received.repeats.drop(reader.body))
    finally:
        received.ended_at, received.ended_at_utc = monotonic(), utc_now()
    if refusal is not None:
        raise refusal


def _space(received: Received, room_for: Callable[[int], Room]) -> memoryview:
    """Where the next bytes go, with memory behind it. Raises Refused."""
    reader = received.reader
    if reader.needs_room:
        assert reader.length is not None
        received.room = room_for(reader.length)
        reader.give_room(received.room.view)
    # No more at once than has come: a peer that stops costs in proportion to what it sent.
    piece, kept, room = min(PIECE, max(OPENING_BYTES, reader.kept_bytes)), reader.kept_bytes, received.room
    if room is not None and room.make(kept + min(piece, reader.left), kept):
        reader.go_on_in(room.view)
    return reader.space()[:piece]


def _receive_some(channel: Channel, space: memoryview, received: Received, first: Deadline, watch: Watch) -> int:
    """One or more bytes, waited for as long as the peer may take."""
    started = received.started_at is not None
    where = "in the middle of a frame" if started else "before a frame"
    while True:
        before = monotonic()
        try:
            count = channel.receive_into(space, watch.patience if started else first.at - before)
        except OSError as error:
            raise lost(error, where) from error
        if count == 0:
            raise ConnectionLost(f"end of file {where}", "closed")
        now = monotonic()
        if started:
            watch.waited(now - before, count or 0, where)
        elif count is not None:
            received.started_at = now
        elif now >= first.at:
            raise ConnectionLost(f"timed out {where}", "timeout")
        if count is not None:
            return count


@dataclass
class Progress:
    """How many bytes of a frame the system has taken, the length's included."""

    bytes: int = 0


def send_at_once(channel: Channel, body: bytes | memoryview, progress: Progress) -> bool:
    """Send length and body as far as that takes no waiting. Whether that was all; :func:`send_frame` sends the rest."""
    progress.bytes = channel.send_at_once([encode_length(len(body)), body])
    return progress.bytes == LENGTH_BYTES + len(body)


def send_frame(
    channel: Channel,
    body: bytes | memoryview | bytearray,
    pace: Pace,
    before_last: Callable[[], None] = lambda: None,
    progress: Progress | None = None,
    unwanted: Callable[[], str | None] = lambda: None,
) -> None:
    """Send length and body, or what is left of them after ``progress``. ``before_last`` is called once, just before the
    call that sends the last bytes.

    ``unwanted`` is asked now and then while the peer does not read: a reason ends the sending. Raises ConnectionLost;
    ``progress`` says how far it came.
    """
    progress = progress or Progress()
    view, head, watch = memoryview(body), encode_length(len(body)), Watch(pace)
    cut = max(0, len(view) - LAST_PIECE)

    def send(pieces: Sequence[Piece]) -> int:
        sent = _send_some(channel, pieces, watch, unwanted)
        progress.bytes += sent
        return sent

    # Length and body in one call: trainers take what one recv(8) returns as the whole length.
    if not cut and not progress.bytes:
        before_last()
        rest = memoryview(head + bytes(view))
    else:
        if not progress.bytes:
            send([head, view[: min(cut, PIECE)]])
        if progress.bytes < len(head):  # a send buffer that takes anything takes eight bytes
            raise ConnectionLost("the length could not be sent in one piece")
        rest = view[progress.bytes - len(head) : cut]
        while rest:
            rest = rest[send([rest[:PIECE]]) :]
        before_last()
        rest = view[max(cut, progress.bytes - len(head)) :]
    while rest:
        rest = rest[send([rest[:PIECE]]) :]


def _send_some(channel: Channel, pieces: Sequence[Piece], watch: Watch, unwanted: Callable[[], str | None]) -> int:
    where = "while sending"
    while True:
        before = monotonic()
        with translated(where):
            count = channel.send(pieces, min(LOOK_SECONDS, watch.patience))
        watch.waited(monotonic() - before, count or 0, where)
        if count is not None:
            return count
        if (reason := unwanted()) is not None:
            raise ConnectionLost(reason, "timeout")


@contextlib.contextmanager
def translated(where: str) -> Iterator[None]:
    """Errors of the operating system and of TLS as ConnectionLost."""
    try:
        yield
    except OSError as error:
        raise lost(error, where) from error


def lost(error: OSError, where: str) -> ConnectionLost:
    """What an error of the operating system or of TLS means."""
    if isinstance(error, TimeoutError):
        return ConnectionLost(f"timed out {where}", cause_of(error))
    if isinstance(error, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
        return ConnectionLost(f"connection reset {where}", cause_of(error))
    if isinstance(error, ssl.SSLError):
        return ConnectionLost(f"TLS failed {where}: {error.reason or error}", "other")
    return ConnectionLost(f"{error.strerror or error} {where}", cause_of(error))
