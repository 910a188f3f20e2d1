"""The trainers' port is for now that of a connection which somebody on this machine has made."""

from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer
from tests.network.outgoing import outgoing, port_of

WAITS = "by a connection of another program, to .*; trying again for up to 60 s$"


def test_a_port_that_a_connection_has_is_taken_when_it_is_over(start: Start) -> None:
    with outgoing() as connection:
        port = port_of(connection)
        server = start("--server-port", str(port), "--num-rounds", "1", "--min-clients", "1", *FAST)
        server.wait_for_line(WAITS)
    assert server.port == port
    with Peer(server, "a") as peer:
        peer.join()
        peer.answer(0.1)
        peer.finished()
    assert server.exit_code() == 0


def test_a_stop_while_it_waits_for_the_port_leaves_nothing(start: Start) -> None:
    with outgoing() as connection:
        server = start("--server-port", str(port_of(connection)))
        server.wait_for_line(WAITS)
        assert server.terminate() == 3
    assert server.lines[-1] == "flserver: interrupted"
    assert list(server.db.parent.iterdir()) == []
