"""A socket that several processes accept from: each connection is one's, and who finds none goes on."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from flserver.network.listener import Listener
from flserver.process.nodes.child import SharedListener
from tests.patience import PATIENCE


@pytest.fixture
def shared() -> Iterator[tuple[SharedListener, SharedListener, tuple[str, int]]]:
    """One socket, as two processes have it, and its address."""
    with contextlib.closing(Listener("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        both = [SharedListener(socket.socket(fileno=listener.socket.dup().detach())) for _ in range(2)]
        for one in both:
            stack.callback(one.free)
        yield both[0], both[1], listener.address


Shared = tuple[SharedListener, SharedListener, tuple[str, int]]


def test_a_connection_is_one_nodes_and_the_others_are_not_held_up(shared: Shared) -> None:
    first, second, address = shared
    with socket.create_connection(address) as trainer:
        assert first.await_connection()
        assert second.await_connection(), "it sees it too"
        accepted = first.accept()
        assert accepted is not None
        with accepted[0] as taken:
            assert accepted[1] == trainer.getsockname()
            assert taken.gettimeout() is None, "a session waits for its peer"
        assert second.accept() is None


def test_one_that_ends_wakes_and_the_others_accept_as_before(shared: Shared) -> None:
    first, second, address = shared
    ended = threading.Event()

    def accept() -> None:
        first.await_connection()
        with pytest.raises(OSError, match="over"):
            first.accept()
        ended.set()

    thread = threading.Thread(target=accept)
    thread.start()
    first.close()
    thread.join(PATIENCE)
    assert ended.is_set()
    assert first.await_connection(0.0), "nobody waits any more"
    with socket.create_connection(address):
        assert second.await_connection()
        accepted = second.accept()
        assert accepted is not None
        accepted[0].close()
