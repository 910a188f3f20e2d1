"""Receiving one frame over one socket: every cut, every end, every refusal, and where the body goes."""

import errno
import itertools
import mmap
import pickle
import random
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserver.clock import Deadline
from flserver.errors import ConnectionLost, FrameRefused, IdentityRefused, NoRoom
from flserver.network.channel import Channel
from flserver.network.memory import ReceiveMemory, Room
from flserver.network.transport import PIECE, Pace, Received, receive_frame
from flserver.wire.framing import OPENING_BYTES, FrameLimits, FrameReader
from flserver.wire.repeats import Repeats
from tests.network.frames import LIMIT, LONG, framed, new_frame, pickle_body, receive, reset, room_of


class CutSocket:
    """Hands out bytes in prescribed pieces, then end of file; a piece may be an error to raise."""

    def __init__(self, pieces: Sequence[bytes | OSError]) -> None:
        self._pieces = list(pieces)

    def settimeout(self, seconds: float) -> None:
        pass

    def gettimeout(self) -> None: ...

    def recv_into(self, space: memoryview, size: int = 0, flags: int = 0) -> int:
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


@pytest.mark.parametrize("places", [[], [PIECE, PIECE + 1, 5 * PIECE], [OPENING_BYTES // 2, 3 * PIECE]])
def test_what_repeats_in_a_long_body_is_not_kept(memory: ReceiveMemory, tmp_path: Path, places: list[int]) -> None:
    payload = random.Random(5).randbytes(LIMIT // 3)
    value = [bytes(bytearray(payload)) for _ in range(9)]
    body = pickle.dumps(value)
    frame = Received(FrameReader(FrameLimits(pickle=4 * LIMIT)), repeats=Repeats(1000))
    receive_frame(
        Channel(CutSocket(cut(framed(body), places))),  # type: ignore[arg-type]
        frame,
        room_of(memory),
        Deadline.after(LONG),
        Pace(whole=LONG),
    )
    assert pickle.loads(frame.hold()) == value
    assert len(frame.hold()) < 1.1 * len(payload)
    assert memory.in_use < LIMIT, "and not a file"
    assert not any(f"{tmp_path}/" in line for line in Path("/proc/self/maps").read_text().splitlines())
    assert (frame.bytes, frame.digest) == (8 + len(body), "blake3:" + blake3.blake3(body).hexdigest())
    frame.release()


def test_a_long_body_in_which_nothing_repeats_goes_on_in_a_file(memory: ReceiveMemory, tmp_path: Path) -> None:
    body = pickle.dumps([random.Random(seed).randbytes(LIMIT // 3) for seed in range(9)])
    frame = Received(FrameReader(FrameLimits(pickle=4 * LIMIT)), repeats=Repeats(1000))
    sock = CutSocket(cut(framed(body), [PIECE + 1]))
    receive_frame(Channel(sock), frame, room_of(memory), Deadline.after(LONG), Pace(whole=LONG))  # type: ignore[arg-type]
    assert pickle.loads(frame.hold()) == pickle.loads(body)
    assert memory.in_use == 0
    assert any(f"{tmp_path}/" in line for line in Path("/proc/self/maps").read_text().splitlines())
    frame.release()


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
        def recv_into(self, space: memoryview, size: int = 0, flags: int = 0) -> int:
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
