"""One frame over one socket: every cut, every end, every deadline."""

import errno
import itertools
import mmap
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import blake3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flserver.clock import Deadline, monotonic
from flserver.errors import ConnectionLost, FrameRefused, IdentityRefused, NoRoom
from flserver.network.channel import Channel
from flserver.network.memory import ReceiveMemory, Room
from flserver.network.transport import LAST_PIECE, PIECE, Pace, Received, receive_frame, send_frame, tune
from flserver.wire.framing import OPENING_BYTES, FrameLimits, FrameReader

LONG = 30.0  # seconds; nothing waits this long when all is well
SHORT = 0.1
LIMIT = 4 * PIECE


@pytest.fixture
def memory(tmp_path: Path) -> ReceiveMemory:
    return ReceiveMemory(4 * LIMIT, LIMIT, tmp_path)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end and the trainer's of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname(), timeout=LONG) as trainer:
            ours, _ = listener.accept()
            with ours:
                yield ours, trainer


def room_of(memory: ReceiveMemory) -> Callable[[int], Room]:
    """Room for the bodies of one client."""
    return lambda length: memory.take(length, "a client", 1 << 40)


def pickle_body(size: int) -> bytes:
    """Bytes that start like a pickle and repeat nowhere near the size of a piece."""
    return (b"\x80" + b"".join(i.to_bytes(4, "big") for i in range(size // 4 + 1)))[:size]


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(8, "big") + body


def new_frame() -> Received:
    return Received(FrameReader(FrameLimits(json=4096, pickle=LIMIT)))


def receive(sock: Any, memory: ReceiveMemory, frame: Received, first: float = LONG, whole: float = LONG) -> bytes:
    receive_frame(Channel(sock), frame, room_of(memory), Deadline.after(first), Pace(whole=whole))
    body = bytes(frame.hold())
    frame.release()
    return body


class CutSocket:
    """Hands out bytes in prescribed pieces, then end of file; a piece may be an error to raise."""

    def __init__(self, pieces: Sequence[bytes | OSError]) -> None:
        self._pieces = list(pieces)

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0, "0 would be non-blocking"

    def recv_into(self, space: memoryview) -> int:
        if not self._pieces:
            return 0
        piece = self._pieces.pop(0)
        if isinstance(piece, OSError):
            raise piece
        count = min(len(piece), len(space))
        space[:count] = piece[:count]
        if count < len(piece):
            self._pieces.insert(0, piece[count:])
        return count


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    ends = sorted({0, len(data), *(place % len(data) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(ends)]


# --- receiving -------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    size=st.sampled_from([1, 2, 1000, OPENING_BYTES - 1, OPENING_BYTES, OPENING_BYTES + 1, PIECE + 7]),
    places=st.lists(st.integers(0, 2 * PIECE), max_size=12),
)
def test_any_cut_gives_the_same_frame(size: int, places: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    memory = ReceiveMemory(4 * LIMIT, LIMIT, tmp_path_factory.getbasetemp())
    body = pickle_body(size)
    frame = new_frame()
    assert receive(CutSocket(cut(framed(body), places)), memory, frame) == body
    assert frame.digest == "blake3:" + blake3.blake3(body).hexdigest()
    assert frame.bytes == 8 + size
    assert memory.in_use == 0


def test_one_byte_at_a_time(memory: ReceiveMemory) -> None:
    body = pickle_body(OPENING_BYTES + 5)
    frame = new_frame()
    assert receive(CutSocket([bytes([byte]) for byte in framed(body)]), memory, frame) == body


def test_no_byte_of_what_follows_is_taken(pair: tuple[socket.socket, socket.socket], memory: ReceiveMemory) -> None:
    ours, trainer = pair
    bodies = [pickle_body(OPENING_BYTES + 9), b'{"a": 1}']
    trainer.sendall(b"".join(framed(body) for body in bodies))
    assert [receive(ours, memory, new_frame()) for _ in bodies] == bodies


ENDS = [0, 1, 7, 8, 9, 500, OPENING_BYTES + 8, OPENING_BYTES + 50]
CAUSES = [
    (ConnectionResetError(errno.ECONNRESET, "reset"), "reset"),
    (BrokenPipeError(errno.EPIPE, "pipe"), "reset"),
    (ConnectionAbortedError(errno.ECONNABORTED, "aborted"), "reset"),
    (TimeoutError(errno.ETIMEDOUT, "keep-alive gave up"), "timeout"),
    (OSError(errno.EHOSTUNREACH, "No route to host"), "timeout"),
    (OSError("no errno"), "other"),
    (None, "closed"),
]


@pytest.mark.parametrize("come", ENDS)
@pytest.mark.parametrize(("error", "cause"), CAUSES)
def test_an_end_at_each_place_has_its_cause(
    memory: ReceiveMemory, come: int, error: OSError | None, cause: str
) -> None:
    data = framed(pickle_body(OPENING_BYTES + 100))[:come]
    frame = new_frame()
    with pytest.raises(ConnectionLost) as caught:
        receive(CutSocket([*([data] if data else []), *([error] if error else [])]), memory, frame)
    assert caught.value.cause == cause
    assert ("in the middle of a frame" if come else "before a frame") in str(caught.value)
    assert (frame.bytes, frame.digest) == (come, None)
    assert (frame.started_at is not None) == (come > 0)
    assert frame.ended_at_utc.endswith("Z")
    assert frame.seconds >= 0
    frame.release()
    assert memory.in_use == 0


def reset(sock: socket.socket) -> None:
    """Close so that the peer gets RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("come", [0, 5, 8, 1000])
@pytest.mark.parametrize(("end", "cause"), [(socket.socket.close, "closed"), (reset, "reset")])
def test_a_real_peer_that_goes_away(
    pair: tuple[socket.socket, socket.socket],
    memory: ReceiveMemory,
    come: int,
    end: Callable[[socket.socket], None],
    cause: str,
) -> None:
    ours, trainer = pair
    trainer.sendall(framed(pickle_body(5000))[:come])
    end(trainer)
    with pytest.raises(ConnectionLost) as caught:
        receive(ours, memory, new_frame())
    assert caught.value.cause == cause


@pytest.mark.parametrize("come", [0, 3, 8, 1000])
def test_a_real_peer_that_stops(pair: tuple[socket.socket, socket.socket], memory: ReceiveMemory, come: int) -> None:
    ours, trainer = pair
    trainer.sendall(framed(pickle_body(5000))[:come])
    started = monotonic()
    with pytest.raises(ConnectionLost) as caught:
        receive(ours, memory, new_frame(), first=LONG if come else SHORT, whole=SHORT)
    assert caught.value.cause == "timeout"
    assert SHORT / 2 <= monotonic() - started < LONG / 2


@contextmanager
def trickle(sock: socket.socket, data: bytes, pause: float) -> Iterator[None]:
    """Sends a byte at a time until the block is over."""
    stop = threading.Event()

    def send() -> None:
        for byte in data:
            sock.sendall(bytes([byte]))
            if stop.wait(pause):
                return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_trickle_does_not_put_off_the_frames_deadline(
    pair: tuple[socket.socket, socket.socket], memory: ReceiveMemory
) -> None:
    ours, trainer = pair
    frame = new_frame()
    with trickle(trainer, framed(pickle_body(5000)), pause=0.02):
        with pytest.raises(ConnectionLost) as caught:
            receive(ours, memory, frame, first=LONG, whole=0.2)
    assert caught.value.cause == "timeout"
    assert 1 < frame.bytes < 5000


def test_the_frame_has_its_own_time_from_its_first_byte_on(
    pair: tuple[socket.socket, socket.socket], memory: ReceiveMemory
) -> None:
    ours, trainer = pair
    data = framed(pickle_body(30))
    with trickle(trainer, data, pause=0.02):  # 0.76 s in all
        assert receive(ours, memory, new_frame(), first=0.2, whole=LONG) == data[8:]


def test_over_the_budget_a_frame_goes_on_in_a_file(memory: ReceiveMemory, tmp_path: Path) -> None:
    rooms = [room_of(memory)(LIMIT) for _ in range(4)]
    for room in rooms:
        room.make(LIMIT, 0)
    body = pickle_body(LIMIT - 5)
    frame = new_frame()
    receive_frame(
        Channel(CutSocket(cut(framed(body), [PIECE, PIECE + 1]))),  # type: ignore[arg-type]
        frame,
        room_of(memory),
        Deadline.after(LONG),
        Pace(whole=LONG),
    )
    assert memory.in_use == memory.budget
    assert bytes(frame.hold()) == body
    assert frame.digest == "blake3:" + blake3.blake3(body).hexdigest()
    assert any(f"{tmp_path}/" in line for line in Path("/proc/self/maps").read_text().splitlines())
    frame.release()
    for room in rooms:
        room.release()
    assert memory.in_use == 0


def test_memory_that_was_given_back_is_not_looked_at_again(
    memory: ReceiveMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as it is given back, another update may be in it."""
    give_back = memory.give_back

    def and_use_it(buffer: mmap.mmap, charged: int) -> None:
        buffer[:] = b"x" * len(buffer)
        give_back(buffer, charged)

    monkeypatch.setattr(memory, "give_back", and_use_it)
    monkeypatch.setattr("flserver.network.memory.STEP", PIECE)
    frame, body, others = new_frame(), pickle_body(LIMIT - 5), []

    class UsesUpTheBudget(CutSocket):
        def recv_into(self, space: memoryview) -> int:
            if frame.bytes > PIECE // 2 and not others:
                others.append(room_of(memory)(memory.budget))
                while memory.charge(1000):
                    pass
            return super().recv_into(space)

    receive_frame(
        Channel(UsesUpTheBudget([framed(body)])),  # type: ignore[arg-type]
        frame,
        room_of(memory),
        Deadline.after(LONG),
        Pace(whole=LONG),
    )
    assert frame.room is not None
    assert frame.room._file is not None, "it moved in the middle"
    assert bytes(frame.hold()) == body
    frame.release()


def test_a_body_for_which_there_is_no_room_any_more_is_read_to_its_end(
    memory: ReceiveMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(room: Room, upto: int, arrived: int) -> bool:
        if upto > LIMIT // 2:
            raise NoRoom("neither memory nor disk")
        return False

    monkeypatch.setattr(Room, "make", full)
    frame, body = new_frame(), pickle_body(LIMIT)
    with pytest.raises(NoRoom):
        receive_frame(
            Channel(CutSocket([framed(body)])),  # type: ignore[arg-type]
            frame,
            room_of(memory),
            Deadline.after(LONG),
            Pace(whole=LONG),
        )
    assert frame.bytes == 8 + LIMIT
    assert frame.digest == "blake3:" + blake3.blake3(body).hexdigest()
    assert (frame.room, memory.in_use) == (None, 0)


@pytest.mark.parametrize("size", [OPENING_BYTES + 1, 3 * PIECE])
def test_an_unwanted_body_is_read_to_its_end_and_not_kept(memory: ReceiveMemory, size: int) -> None:
    def refuse(length: int) -> Room:
        assert length == size
        raise IdentityRefused("nobody's")

    body, frame = pickle_body(size), new_frame()
    following = b"the next frame"
    sock = CutSocket([framed(body) + following])
    with pytest.raises(IdentityRefused, match="nobody's"):
        receive_frame(Channel(sock), frame, refuse, Deadline.after(LONG), Pace(whole=LONG))  # type: ignore[arg-type]
    assert (frame.bytes, len(frame.reader.body)) == (8 + size, OPENING_BYTES)
    assert frame.digest == "blake3:" + blake3.blake3(body).hexdigest()
    assert sock.recv_into(memoryview(bytearray(100))) == len(following), "and not a byte more"


class ClockedPeer:
    """Gives, and takes, ``count`` bytes every ``seconds``, on a clock that the watch uses too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int, seconds: float) -> None:
        self.now, self._timeout, self._count, self._seconds = 1000.0, 0.0, count, seconds
        self._first = True
        self._next = self.now + seconds
        for module in ("flserver.network.transport", "flserver.clock"):
            monkeypatch.setattr(f"{module}.monotonic", lambda: self.now)

    def settimeout(self, seconds: float) -> None:
        self._timeout = seconds

    def _wait(self) -> None:
        if self._next - self.now > self._timeout:
            self.now += self._timeout
            raise TimeoutError("timed out")
        self.now = self._next
        self._next += self._seconds

    def recv_into(self, space: memoryview) -> int:
        if self._first:
            self._first = False
            space[:] = framed(pickle_body(LIMIT))[: len(space)]
            return len(space)
        self._wait()
        count = min(self._count, len(space))
        space[:count] = b"\x80" * count
        return count

    def send(self, data: bytes) -> int:
        self._wait()
        return min(self._count, len(data))

    def sendmsg(self, buffers: Sequence[bytes]) -> int:
        return self.send(b"".join(buffers))


@pytest.mark.parametrize(
    ("count", "seconds", "until", "said"),
    [
        (1, 1.0, 1030.0, "slower than 100 bytes a second for 30 s"),
        (2999, 30.0, 1030.0, "slower than 100 bytes a second for 30 s"),
        (100, 1.0, 1500.0, "timed out"),  # as fast as it must be, but not done in 500 s
    ],
)
def test_a_slow_sender_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, memory: ReceiveMemory, count: int, seconds: float, until: float, said: str
) -> None:
    peer: Any = ClockedPeer(monkeypatch, count, seconds)
    frame = new_frame()
    with pytest.raises(ConnectionLost, match=said) as caught:
        receive_frame(Channel(peer), frame, room_of(memory), Deadline.after(LONG), Pace(whole=500, rate=100, window=30))
    assert caught.value.cause == "timeout"
    assert peer.now == pytest.approx(until)


def test_time_in_which_the_server_does_not_read_is_not_the_peers(
    monkeypatch: pytest.MonkeyPatch, memory: ReceiveMemory
) -> None:
    peer: Any = ClockedPeer(monkeypatch, 200, 1.0)
    frame = new_frame()

    def room_after_a_while(length: int) -> Room:
        peer.now += 10_000
        peer._next = peer.now + 1
        return room_of(memory)(length)

    # Slower than the opening needs to be whole within the frame's time, were the wait for room counted.
    with pytest.raises(ConnectionLost, match="timed out"):
        receive_frame(
            Channel(peer), frame, room_after_a_while, Deadline.after(LONG), Pace(whole=500, rate=100, window=30)
        )
    assert peer.now == pytest.approx(1500.0 + (10_000 if frame.room else 0))


@pytest.mark.parametrize(("count", "seconds"), [(1, 1.0), (2990, 30.0)])
def test_a_slow_reader_is_cut_off(monkeypatch: pytest.MonkeyPatch, count: int, seconds: float) -> None:
    peer: Any = ClockedPeer(monkeypatch, count, seconds)
    peer.sendmsg = lambda buffers: 9  # the length, and a byte
    with pytest.raises(ConnectionLost, match="slower than 100 bytes a second for 30 s while sending") as caught:
        send_frame(Channel(peer), pickle_body(LIMIT), Pace(whole=500, rate=100, window=30))
    assert caught.value.cause == "timeout"
    assert peer.now == pytest.approx(1030.0)


def test_what_is_not_wanted_any_more_is_not_sent_on(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    asked: list[str] = []

    def unwanted() -> str | None:
        asked.append("asked")
        return "newer ones need its memory" if len(asked) == 2 else None

    with pytest.raises(ConnectionLost, match="newer ones") as caught:
        send_frame(Channel(ours), pickle_body(32 * PIECE), Pace(whole=LONG), unwanted=unwanted)
    assert caught.value.cause == "timeout"


def test_what_a_length_claims_costs_nothing(memory: ReceiveMemory) -> None:
    with pytest.raises(ConnectionLost):
        receive(CutSocket([LIMIT.to_bytes(8, "big") + pickle_body(OPENING_BYTES - 1)]), memory, new_frame())
    assert memory.in_use == 0


def test_what_is_refused_is_refused_at_once(memory: ReceiveMemory) -> None:
    frame = new_frame()
    with pytest.raises(FrameRefused):
        receive(CutSocket([b"GET / HTTP/1.1\r\n"]), memory, frame)
    assert frame.bytes == 8
    assert frame.ended_at_utc


# --- sending ---------------------------------------------------------------------------------------------------------


class Recorder(socket.socket):
    """A real socket that notes the size of every send, and sends at most ``most`` bytes a call."""

    def __init__(self, sock: socket.socket, most: int = 1 << 30) -> None:
        super().__init__(fileno=sock.detach())
        self.sent: list[int] = []
        self._most = most

    def send(self, data: Any, flags: int = 0) -> int:
        self.sent.append(super().send(memoryview(data)[: self._most], flags))
        return self.sent[-1]

    def sendmsg(self, buffers: Any, *rest: Any) -> int:
        return self.send(b"".join(buffers))


SIZES = [1, 100, LAST_PIECE - 1, LAST_PIECE, LAST_PIECE + 1, 2 * LAST_PIECE, PIECE, PIECE + LAST_PIECE + 1, 3 * PIECE]


def read_exactly(sock: socket.socket, count: int, piece: int = 1 << 16) -> bytes:
    parts = []
    while count:
        part = sock.recv(min(piece, count))
        assert part, "end of file"
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def send_in_background(pool: ThreadPoolExecutor, sock: socket.socket, body: bytes, **more: Any) -> Any:
    return pool.submit(send_frame, Channel(sock), body, Pace(whole=LONG), **more)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("most", [1 << 30, 1000])
def test_what_is_sent_is_the_frame(pair: tuple[socket.socket, socket.socket], size: int, most: int) -> None:
    ours, trainer = pair
    body = pickle_body(size)
    with Recorder(ours, most) as sock, ThreadPoolExecutor(1) as pool:
        sending = send_in_background(pool, sock, body)
        assert read_exactly(trainer, 8 + size, piece=1024) == framed(body), "as the trainers in the field read it"
        sending.result(LONG)
        assert sock.sent[0] > 8 or size == 0, "the length and the body's start go in one call"


@pytest.mark.parametrize("size", SIZES)
def test_one_recv_gets_the_whole_length(pair: tuple[socket.socket, socket.socket], size: int) -> None:
    ours, trainer = pair
    tune(ours, 90)
    with ThreadPoolExecutor(1) as pool:
        sending = send_in_background(pool, ours, pickle_body(size))
        assert trainer.recv(8, socket.MSG_PEEK) == size.to_bytes(8, "big")
        read_exactly(trainer, 8 + size)
        sending.result(LONG)


def test_a_length_that_goes_out_in_parts_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    with Recorder(ours, most=5) as sock:
        with pytest.raises(ConnectionLost, match="length"):
            send_frame(Channel(sock), pickle_body(2 * LAST_PIECE), Pace(whole=LONG))


@pytest.mark.parametrize("size", SIZES)
def test_before_last_comes_once_and_before_the_peer_can_have_everything(
    pair: tuple[socket.socket, socket.socket], size: int
) -> None:
    ours, trainer = pair
    calls: list[float] = []
    reached, go = threading.Event(), threading.Event()

    def before_last() -> None:
        calls.append(monotonic())
        reached.set()
        assert go.wait(LONG)

    early = max(0, size - LAST_PIECE)
    with ThreadPoolExecutor(1) as pool:
        sending = send_in_background(pool, ours, pickle_body(size), before_last=before_last)
        got = read_exactly(trainer, 8 + early if early else 0)
        assert reached.wait(LONG)
        trainer.setblocking(False)
        with pytest.raises(BlockingIOError):
            trainer.recv(1)
        trainer.setblocking(True)
        go.set()
        got += read_exactly(trainer, 8 + size - len(got))
        sending.result(LONG)
    assert got == framed(pickle_body(size))
    assert len(calls) == 1


def test_before_last_does_not_come_where_the_frame_fails_first(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, trainer = pair
    reset(trainer)
    calls: list[str] = []
    with pytest.raises(ConnectionLost) as caught:
        send_frame(Channel(ours), pickle_body(32 * PIECE), Pace(whole=LONG), lambda: calls.append("called"))
    assert caught.value.cause == "reset"
    assert calls == []


def test_a_reader_that_stops_costs_no_longer_than_the_deadline(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    started = monotonic()
    with pytest.raises(ConnectionLost) as caught:
        send_frame(Channel(ours), pickle_body(32 * PIECE), Pace(whole=SHORT))
    assert caught.value.cause == "timeout"
    assert SHORT / 2 <= monotonic() - started < LONG / 2


class TricklingReader:
    """Takes 1,000 bytes a second, on a clock that the test's deadlines use too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self._timeout = 1000.0, 0.0
        monkeypatch.setattr("flserver.network.transport.monotonic", lambda: self.now)

    def settimeout(self, seconds: float) -> None:
        self._timeout = seconds

    def send(self, data: bytes) -> int:
        self.now += min(1.0, self._timeout)
        if self._timeout < 1.0:
            raise TimeoutError("timed out")
        return min(1000, len(data))

    def sendmsg(self, buffers: Sequence[bytes]) -> int:
        return self.send(b"".join(buffers))


@pytest.mark.parametrize("size", [LAST_PIECE, 100 * LAST_PIECE])
def test_a_reader_that_trickles_does_not_put_off_the_deadline(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reader: Any = TricklingReader(monkeypatch)
    with pytest.raises(ConnectionLost) as caught:
        send_frame(Channel(reader), pickle_body(size), Pace(whole=3.5))
    assert caught.value.cause == "timeout"
    assert reader.now == pytest.approx(1003.5)


# --- the rest --------------------------------------------------------------------------------------------------------


def test_a_channel_tells_data_from_each_kind_of_end(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, trainer = pair
    assert Channel(ours).ended() is None
    trainer.sendall(b"x")
    assert read_peeked(ours) == b"x"
    assert Channel(ours).ended() is None
    ours.settimeout(LONG)
    assert ours.recv(1) == b"x", "it was only looked at"
    trainer.shutdown(socket.SHUT_WR)
    assert read_peeked(ours) == b""
    assert Channel(ours).ended() == "closed"


def test_a_channel_knows_a_reset(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, trainer = pair
    reset(trainer)
    assert Channel(ours).ended() == "reset"


def read_peeked(sock: socket.socket) -> bytes:
    """Waits until there is something to read, without taking it."""
    sock.settimeout(LONG)
    return sock.recv(1, socket.MSG_PEEK)


def test_a_tuned_socket_does_not_wait_and_notices_a_dead_machine(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    tune(ours, 90)
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    if os.uname().sysname == "Linux":
        idle, interval, probes = (
            ours.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert 60 <= idle + interval * probes <= 90
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 90_000
