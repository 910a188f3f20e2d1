"""A trainer's connection that goes on elsewhere: once it does, the end of what served it does not touch it."""

from contextlib import closing

from tests.network.served import Network


def ends(network: Network) -> None:
    """Another server goes on with the run."""
    network.context.hands_on = True
    network.exchange.roster_changed()  # it rings


def test_a_connection_that_was_handed_on_is_not_cut_any_more(network: Network) -> None:
    line = network.registered("a")
    ends(network)
    line.ended()
    line.session.cut("the server stopped")
    (trainer,) = network.context.handed_on
    with closing(trainer):
        assert trainer.metadata.client_id == "a"
        trainer.channel.send([b"x"], 1.0)
        assert line.trainer.recv(1) == b"x"
    assert line.story()[-1] == "closed, register of a: the next server goes on with it"


def test_a_connection_that_is_cut_as_it_would_be_handed_on_ends(network: Network) -> None:
    line = network.registered("a")
    line.session._channel.cut = lambda: None  # type: ignore[method-assign]  # its thread sees that late
    line.session.cut("the server stopped")
    ends(network)
    line.ended()
    assert network.context.handed_on == []
    assert line.trainer.recv(1) == b""
    assert line.story()[-1] == "closed, register of a: the server stopped"
