"""Frames to send and to receive, and how long a test waits for one."""

import socket
import struct
from collections.abc import Callable
from typing import Any

from flserver.clock import Deadline
from flserver.network.channel import Channel
from flserver.network.memory import ReceiveMemory, Room
from flserver.network.transport import PIECE, Pace, Received, receive_frame
from flserver.wire.framing import FrameLimits, FrameReader
from tests.patience import PATIENCE

LONG = PATIENCE
SHORT = 0.1
LIMIT = 4 * PIECE


def pickle_body(size: int) -> bytes:
    """Bytes that start like a pickle and repeat nowhere near the size of a piece."""
    return (b"\x80" + b"".join(i.to_bytes(4, "big") for i in range(size // 4 + 1)))[:size]


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(8, "big") + body


def new_frame() -> Received:
    return Received(FrameReader(FrameLimits(json=4096, pickle=LIMIT)))


def room_of(memory: ReceiveMemory) -> Callable[[int], Room]:
    """Room for the bodies of one client."""
    return lambda length: memory.take(length, "a client", 1 << 40)


def receive(sock: Any, memory: ReceiveMemory, frame: Received, first: float = LONG, whole: float = LONG) -> bytes:
    receive_frame(Channel(sock), frame, room_of(memory), Deadline.after(first), Pace(whole=whole))
    body = bytes(frame.hold())
    frame.release()
    return body


def reset(sock: socket.socket) -> None:
    """Close so that the peer gets RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
