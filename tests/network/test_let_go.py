"""What a session held is gone with it: not when garbage is looked for, nor at the round's end."""

import gc
import socket
import weakref
from collections.abc import Callable, Iterator

import pytest

from flserver import events as e
from flserver.network.session import Session
from tests.network.frames import framed
from tests.network.served import PEER, Network, linear, update
from tests.sums import AnyOrder


@pytest.fixture(autouse=True)
def nobody_looks_for_garbage() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def what_is_left(network: Network, sent: bytes) -> list[object]:
    """The session, its first message and the message's reader, as far as they are there when it is over."""
    ours, trainer = socket.socketpair()
    trainer.sendall(sent)
    trainer.close()
    session = Session(ours, PEER, 100, network.context, lambda session: None)
    assert session.go_on() is None
    left = weakref.ref(session), weakref.ref(session._first), weakref.ref(session._first.reader)
    del session
    return [one() for one in left if one() is not None]


def test_nothing_of_a_small_update_that_counts_is_left(network_of: Callable[..., Network]) -> None:
    """The next one finds its memory in the processor's cache."""
    network = network_of(strategy=AnyOrder(), rules={"min_updates": 2})
    line = network.registered("a")
    network.begin()
    line.receive()
    assert not what_is_left(network, framed(update("a", linear(value=1.0))))
    (counts,) = network.recorder.of(e.UpdateReceived)
    assert counts.decision is None


def test_nothing_of_a_stranger_is_left(network: Network) -> None:
    assert not what_is_left(network, b"GET / HTTP/1.1\r\n\r\n")
