"""Many peers, and few that claim much: what they cost the others."""

import contextlib
import pickle
from collections.abc import Callable

import torch

from tests.e2e.conftest import Start
from tests.e2e.harness import NeuralNet, Peer, closed, connect, field_module, send

Join = Callable[..., list[Peer]]
FAST = ("--time-to-wait", "0.3", "--rejoin-timeout", "20")


def test_idle_connections_make_room_for_trainers(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--min-clients", "2", "--max-connections", "8", *FAST)
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect(server.port)) for _ in range(8)]
        server.wait_for_line("state: joining")
        a, b = join(server, "a", "b")
        assert closed(idle[0])
        assert closed(idle[1])
        more = [stack.enter_context(connect(server.port)) for _ in range(20)]
        assert closed(more[0])
        for peer in (a, b):
            peer.answer()
        for peer in (a, b):
            peer.finished()
    assert server.exit_code() == 0
    assert "Traceback" not in server.log
    assert server.sql("SELECT COUNT(*) FROM v1_connections WHERE closed_at IS NULL") == [(0,)]
    assert server.sql("SELECT COUNT(*) FROM v1_connections WHERE purpose = 'unknown'")[0][0] >= 20


def test_where_all_have_spoken_a_newcomer_is_not_served_and_has_a_row(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--min-clients", "8", "--max-connections", "8", *FAST)
    peers = join(server, *range(7))
    with contextlib.ExitStack() as stack:
        last = stack.enter_context(Peer(server, 7)).join()
        with connect(server.port) as stranger:
            assert closed(stranger)
        last.connection.close()
        server.wait_for_sql("SELECT 1 FROM v1_connections WHERE close_reason LIKE 'not served%'")
        server.process.terminate()
    for peer in peers:
        peer.connection.close()
    assert server.exit_code() == 3


def test_many_names_of_one_large_tensor_are_not_looked_at(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--min-clients", "3", *FAST)
    a, b, c = join(server, "a", "b", "c")
    bomb = NeuralNet()
    shared = torch.nn.Parameter(torch.zeros(784, 10))
    for i in range(400):
        bomb.register_parameter(f"w{i}", shared)
    c.model()
    with field_module():
        body = pickle.dumps({"header": "<MODEL>", "id": "c", "model": bomb})
    assert len(body) < 120_000
    for claimed in (b"c", b"z"):  # a participant, and somebody who never registered
        with connect(server.port) as peer:
            send(peer, body.replace(b"\x8c\x01c", b"\x8c\x01" + claimed))
            assert closed(peer)
    c.connection.close()
    for peer in (a, b):
        peer.answer()
    for peer in (a, b):
        peer.finished()
    assert server.exit_code() == 0
    reasons = server.sql("SELECT reason FROM v1_messages WHERE outcome = 'refused' ORDER BY message_id")
    assert "hold more than" in reasons[0][0]
    assert "has not registered" in reasons[1][0]
    assert server.sql("SELECT client_id FROM v1_updates ORDER BY client_id") == [("a",), ("b",)]
