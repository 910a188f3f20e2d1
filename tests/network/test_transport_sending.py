"""Sending one frame over one socket: what goes out in which call, and when the last of it does."""

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from flserver.clock import monotonic
from flserver.errors import ConnectionLost
from flserver.network.channel import Channel
from flserver.network.transport import LAST_PIECE, PIECE, Pace, send_frame, tune
from tests.network.frames import LONG, framed, pickle_body, reset


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


def test_what_is_not_wanted_any_more_is_not_sent_on(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    asked: list[str] = []

    def unwanted() -> str | None:
        asked.append("asked")
        return "newer ones need its memory" if len(asked) == 2 else None

    with pytest.raises(ConnectionLost, match="newer ones") as caught:
        send_frame(Channel(ours), pickle_body(32 * PIECE), Pace(whole=LONG), unwanted=unwanted)
    assert caught.value.cause == "timeout"


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
