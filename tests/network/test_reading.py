"""Which messages are read with the pickle machine, and what is learnt of whom."""

import threading
from typing import Any

import pytest
import torch

from flserver.network.decoding import MORE
from flserver.wire import protocol
from flserver.wire.messages import decode
from tests.network.served import PEER, STRANGER, Network, linear, update
from tests.patience import PATIENCE


@pytest.fixture
def uploads() -> list[bytes]:
    """Updates of clients 1 and 2. Both of one module, as its storages' keys are addresses: another one's may be longer
    by a digit, and its update of another layout."""
    module, bodies = linear(), list[bytes]()
    for client in (1, 2):
        for parameter in module.parameters():
            torch.nn.init.constant_(parameter, 1 / client)
        bodies.append(update(client, module))
    return bodies


@pytest.fixture
def read(network: Network, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The owners of the messages that were given to the machine."""
    run, owners = network.context.decoding.run, []

    def noted(owner: object, *rest: Any) -> Any:
        owners.append(owner)
        return run(owner, *rest)

    monkeypatch.setattr(network.context.decoding, "run", noted)
    return owners


def test_a_clients_second_update_needs_no_turn(network: Network, read: list[object], uploads: list[bytes]) -> None:
    for client in ("1", "2"):
        network.registered(client)
    network.begin()
    first, second = (network.connect().send(body).ended() for body in uploads)
    assert read == [PEER.host]
    for line, client in ((first, "1"), (second, "2")):
        assert line.story()[-1] == f"closed, upload of {client}: closed"
    assert len(network.context.layouts.known) == 1


def test_who_had_to_wait_for_a_turn_needs_the_machine_no_more_where_its_layout_is_known_by_then(
    network: Network, uploads: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fleet's first updates come together: one is read, the others are like it."""
    for client in ("1", "2"):
        network.registered(client)
    network.begin()
    decoding, run, waits = network.context.decoding, network.context.decoding.run, threading.Event()
    held, machine = list[threading.Event](), list[memoryview]()

    def second_waits(*given: Any) -> Any:
        if held:
            waits.set()
            assert held[0].wait(PATIENCE)
        held.append(threading.Event())
        return run(*given)

    def noted(body: memoryview, *given: Any, **more: Any) -> Any:
        machine.append(body)
        return decode(body, *given, **more)

    monkeypatch.setattr(decoding, "run", second_waits)
    monkeypatch.setattr(protocol, "decode", lambda body, **more: noted(body, **more))
    held.append(threading.Event())
    waiting = network.connect().send(uploads[1])
    assert waits.wait(PATIENCE)
    first, held[:] = held[0], []
    network.connect().send(uploads[0]).ended()
    assert len(network.context.layouts.known) == 1
    read = len(machine)
    first.set()
    assert waiting.ended().story()[-1] == "closed, upload of 2: closed"
    assert len(machine) == read


def test_nothing_is_learnt_of_who_may_not_speak_for_the_client_that_it_names(
    network: Network, read: list[object]
) -> None:
    """Else a flood of messages that cost much would cost little after the first ones, and more of them be read."""
    network.registered("1")
    network.begin()
    for _ in range(2):
        network.connect().send(update(7, linear(value=0.5))).ended()
    assert read == [PEER.host] * 2
    assert not network.context.layouts.known


def test_a_stranger_is_not_read_though_its_layout_is_known(network: Network, read: list[object]) -> None:
    network.registered("1")
    network.begin()
    network.connect().send(update(1, linear(value=0.5))).ended()
    line = network.connect(STRANGER).send(update(1, linear(value=0.5))).ended()
    assert read == [PEER.host]
    assert "refused" in line.story()[1]


def test_an_update_counts_that_is_too_much_to_be_learnt(
    network: Network, read: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has been read by then, and is not read a second time."""
    network.registered("1")
    network.begin()
    heavy = MORE * network.context.decoding.ordinary + 1
    monkeypatch.setattr(network.context.layouts, "learn", lambda body, update, limits, owner, tick, but: tick(heavy))
    line = network.connect().send(update(1, linear(value=0.5))).ended()
    assert read == [PEER.host]
    assert line.story()[-1] == "closed, upload of 1: closed"
