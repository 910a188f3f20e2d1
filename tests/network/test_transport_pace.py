"""The deadlines of a frame: a peer that stops, trickles or is slow costs no longer than it may."""

import socket
from collections.abc import Sequence
from typing import Any

import pytest

from flserver.clock import Deadline, monotonic
from flserver.errors import ConnectionLost
from flserver.network.channel import Channel
from flserver.network.memory import ReceiveMemory, Room
from flserver.network.transport import LAST_PIECE, PIECE, Pace, receive_frame, send_frame
from tests.network.frames import LIMIT, LONG, SHORT, framed, new_frame, pickle_body, receive, room_of


@pytest.mark.parametrize("come", [0, 3, 8, 1000])
def test_a_real_peer_that_stops(pair: tuple[socket.socket, socket.socket], memory: ReceiveMemory, come: int) -> None:
    ours, trainer = pair
    trainer.sendall(framed(pickle_body(5000))[:come])
    started = monotonic()
    with pytest.raises(ConnectionLost) as caught:
        receive(ours, memory, new_frame(), first=LONG if come else SHORT, whole=SHORT)
    assert caught.value.cause == "timeout"
    assert SHORT / 2 <= monotonic() - started < LONG / 2


class ClockedPeer:
    """Gives, and takes, ``count`` bytes every ``seconds``, on a clock that the watch uses too.

    What it gives is ``data``, and all of it that is asked for first ``at_once``.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        count: int,
        seconds: float,
        data: bytes = framed(pickle_body(LIMIT)),
        at_once: bool = True,
    ) -> None:
        self.now, self._timeout, self._count, self._seconds = 1000.0, 0.0, count, seconds
        self._left, self._at_once = memoryview(data), at_once
        self._next = self.now + seconds
        for module in ("flserver.network.transport", "flserver.clock"):
            monkeypatch.setattr(f"{module}.monotonic", lambda: self.now)

    def settimeout(self, seconds: float) -> None:
        self._timeout = seconds

    def gettimeout(self) -> float:
        return self._timeout

    def _wait(self) -> None:
        if not self._timeout and self._next > self.now:
            raise BlockingIOError
        if self._next - self.now > self._timeout:
            self.now += self._timeout
            raise TimeoutError("timed out")
        self.now = self._next
        self._next += self._seconds

    def recv_into(self, space: memoryview, size: int = 0, flags: int = 0) -> int:
        if self._at_once:
            most, self._at_once = len(space), False
        else:
            self._wait()
            most = min(self._count, len(space))
        given, self._left = self._left[:most], self._left[most:]
        space[: len(given)] = given
        return len(given)

    def send(self, data: bytes) -> int:
        self._wait()
        return min(self._count, len(data))

    def sendmsg(self, buffers: Sequence[bytes]) -> int:
        return self.send(b"".join(buffers))


def test_a_trickle_does_not_put_off_the_frames_deadline(monkeypatch: pytest.MonkeyPatch, memory: ReceiveMemory) -> None:
    peer = ClockedPeer(monkeypatch, 1, 0.02, at_once=False)
    frame = new_frame()
    with pytest.raises(ConnectionLost) as caught:
        receive(peer, memory, frame, first=LONG, whole=0.21)
    assert caught.value.cause == "timeout"
    assert frame.bytes == 11
    assert peer.now == pytest.approx(1000.02 + 0.21)


def test_the_frame_has_its_own_time_from_its_first_byte_on(
    monkeypatch: pytest.MonkeyPatch, memory: ReceiveMemory
) -> None:
    data = framed(pickle_body(30))
    peer = ClockedPeer(monkeypatch, 1, 0.02, data, at_once=False)
    assert receive(peer, memory, new_frame(), first=0.2, whole=LONG) == data[8:]
    assert peer.now == pytest.approx(1000 + 38 * 0.02)


def test_the_first_byte_has_its_own_deadline(monkeypatch: pytest.MonkeyPatch, memory: ReceiveMemory) -> None:
    peer = ClockedPeer(monkeypatch, 1, 0.3, at_once=False)
    with pytest.raises(ConnectionLost, match="timed out before a frame"):
        receive(peer, memory, new_frame(), first=0.2, whole=LONG)
    assert peer.now == pytest.approx(1000.2)


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

    def gettimeout(self) -> float:
        return self._timeout

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
