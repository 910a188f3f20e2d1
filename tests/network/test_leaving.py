"""A trainer whose connection ends while the round's model is published, on another thread."""

import pytest

from flserver.rounds.broadcast import Broadcast
from tests.network.served import Network
from tests.recorder import raising


def test_nothing_is_asked_for_a_connection_that_is_over(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    line = network.registered("a")
    network.await_sessions()
    ((_, send),) = network.exchange._bells.values()
    line.hang_up().ended()
    monkeypatch.setattr(network.exchange, "next_ticket", raising(AssertionError("it has nobody to send it to")))
    assert send()


@pytest.mark.parametrize("spoke", [False, True], ids=["silent", "after it spoke out of turn"])
def test_who_leaves_while_a_model_is_published_costs_nobody_anything(network: Network, spoke: bool) -> None:
    """Who publishes has its bell from before. Once it spoke, its socket had a time-out, which is set anew."""
    network.registered("a")
    gone = network.registered("b")
    network.await_sessions()
    if spoke:
        gone.trainer.sendall(b"\0\0\0")
    (of_a, (ring, send)), _ = network.exchange._bells.items()

    def slowly() -> bool:
        gone.hang_up().ended()
        return send()

    network.exchange._bells[of_a] = ring, slowly
    attempt = network.begin()
    assert attempt.seats["a"].sent is not None
    assert (attempt.seats["b"].left, attempt.seats["b"].sent) == (True, None)
    broadcast = network.exchange._broadcast
    assert isinstance(broadcast, Broadcast)
    assert broadcast._users == 0, "nothing is held for who has left"
