"""Which messages are read with the pickle machine, and what is learnt of whom."""

from typing import Any

import pytest

from tests.network.served import PEER, STRANGER, Network, linear, update


@pytest.fixture
def read(network: Network, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The owners of the messages that were given to the machine."""
    run, owners = network.context.decoding.run, []

    def noted(owner: object, *rest: Any) -> Any:
        owners.append(owner)
        return run(owner, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(network.context.decoding, "run", noted)
    return owners


def test_a_clients_second_update_needs_no_turn(network: Network, read: list[object]) -> None:
    for client in ("1", "2"):
        network.registered(client)
    network.begin()
    first = network.connect().send(update(1, linear(value=0.5))).ended()
    second = network.connect().send(update(2, linear(value=0.25))).ended()
    assert read == [PEER.host]
    for line, client in ((first, "1"), (second, "2")):
        assert line.story()[-1] == f"closed, upload of {client}: closed"
    assert len(network.context.layouts.known) == 1


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
    heavy = network.context.decoding.ordinary + 1
    monkeypatch.setattr(network.context.layouts, "learn", lambda body, update, limits, tick: tick(heavy))
    line = network.connect().send(update(1, linear(value=0.5))).ended()
    assert read == [PEER.host]
    assert line.story()[-1] == "closed, upload of 1: closed"
