"""A budget of memory, a TCP connection to ourselves, and the rooms of the network at work."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from flserver.network.memory import ReceiveMemory
from tests.network.frames import LIMIT, LONG
from tests.network.served import Network


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


@pytest.fixture
def network_of(tmp_path: Path) -> Iterator[Callable[..., Network]]:
    """Makes networks, and closes them."""
    with ExitStack() as stack:
        yield lambda **given: stack.enter_context(closing(Network(tmp_path, **given)))


@pytest.fixture
def network(network_of: Callable[..., Network]) -> Network:
    return network_of()
