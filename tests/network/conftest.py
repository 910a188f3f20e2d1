"""A budget of memory, and a TCP connection to ourselves."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from flserver.network.memory import ReceiveMemory
from tests.network.frames import LIMIT, LONG


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
