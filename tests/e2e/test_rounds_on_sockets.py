"""The rules of a round against a real server: what happens to the others when one client misbehaves."""

import json
import socket
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file

from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, NeuralNet, Peer, ServerProcess, connect, receive, send
from tests.patience import DEADLINE

Join = Callable[..., list[Peer]]


def last_round(*peers: Peer) -> None:
    for peer in peers:
        peer.answer()
    for peer in peers:
        peer.finished()


def decisions(server: ServerProcess, round: int) -> list[tuple[object, ...]]:
    return server.sql(
        "SELECT client_id, answers_attempt, decision FROM v1_updates WHERE answers_round = ? ORDER BY update_id", round
    )


def test_three_peers_average_in_the_order_of_their_ids(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--min-clients", "3", *FAST)
    peers = join(server, 2, 10, "b")
    sent = [peer.model().state_dict() for peer in peers]
    updates = []
    for peer, state, shift in zip(peers, sent, (0.5, -0.25, 0.125), strict=True):
        model = torch.nn.Linear(784, 10)
        model.load_state_dict({"weight": state["fc1.weight"] + shift, "bias": state["fc1.bias"]})
        updates.append((str(peer.client_id), peer, model))
    for _, peer, model in reversed(updates):
        net = NeuralNet()
        net.fc1 = model
        peer.upload(net)
    for peer in peers:
        peer.finished()
    assert server.exit_code() == 0
    total = torch.zeros(10, 784, dtype=torch.float64)
    for _, peer, model in sorted(updates, key=lambda update: update[0]):
        total += model.weight.detach().double() * peer.data_size
    expected = (total / sum(peer.data_size for peer in peers)).float()
    (path,) = server.sql("SELECT checkpoint FROM v1_rounds WHERE round = 1")[0]
    got = load_file(server.db.with_name("runs.sqlite.checkpoints") / path)["fc1.weight"]
    assert torch.equal(got, expected)


def test_a_drop_out_ends_its_wait_at_once(start: Start, join: Join) -> None:
    server = start("--num-rounds", "2", "--min-clients", "3", *FAST)
    a, b, c = join(server, "a", "b", "c")
    for peer in (a, b):
        peer.answer()
    c.model()
    c.connection.close()
    last_round(a, b)  # round 2 comes although the round's deadline is an hour away
    assert server.exit_code() == 0
    assert server.sql("SELECT participation FROM v1_client_rounds WHERE client_id = 'c'") == [("dropped",)]
    assert server.sql("SELECT left_reason FROM v1_clients WHERE client_id = 'c'") in ([("closed",)], [("reset",)])
    assert server.sql("SELECT updates_accepted FROM v1_rounds WHERE round > 0") == [(2,), (2,)]


def test_a_reset_is_a_drop_out_too(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--min-clients", "3", *FAST)
    a, b, c = join(server, "a", "b", "c")
    c.model()
    linger = b"\1\0\0\0\0\0\0\0"
    c.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    c.connection.close()
    last_round(a, b)
    assert server.exit_code() == 0
    assert server.sql("SELECT left_reason FROM v1_clients WHERE client_id = 'c'") == [("reset",)]


def test_a_straggler_is_late_and_takes_part_again(start: Start, join: Join) -> None:
    server = start("--num-rounds", "3", "--min-clients", "3", "--round-timeout", str(DEADLINE), *FAST)
    a, b, c = join(server, "a", "b", "c")
    stale = c.model()
    for peer in (a, b):
        peer.answer()
    for peer in (a, b):
        peer.model()  # round 2 runs without c
    assert server.sql("SELECT client_id FROM v1_client_rounds WHERE round = 2 AND participation = 'not_sent'") == [
        ("c",)
    ]
    c.upload(stale)
    server.wait_for_sql("SELECT 1 FROM v1_updates WHERE client_id = 'c' AND decision = 'late'")
    for peer in (a, b):
        peer.upload(stale)
    last_round(a, b, c)  # the newest model, not a queue of old ones
    assert server.exit_code() == 0
    rows = server.sql(
        "SELECT round, participation, decision FROM v1_client_rounds WHERE client_id = 'c' ORDER BY round"
    )
    assert rows == [(1, "timed_out", "late"), (2, "not_sent", None), (3, "answered", "accepted")]
    assert server.sql("SELECT answers_round, arrived_round FROM v1_updates WHERE decision = 'late'") == [(1, 2)]


def test_a_second_upload_is_a_duplicate(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--min-clients", "2", *FAST)
    a, b = join(server, "a", "b")
    model = a.answer(0.25)
    a.upload(model)
    b.answer(0.75)
    for peer in (a, b):
        peer.finished()
    assert server.exit_code() == 0
    rows = server.sql("SELECT client_id, answers_round, decision FROM v1_updates ORDER BY update_id")
    assert rows == [("a", 1, "accepted"), ("a", None, "duplicate"), ("b", 1, "accepted")]
    assert server.sql("SELECT SUM(weight), COUNT(weight) FROM v1_updates") == [(1.0, 2)]


def test_an_upload_that_connected_before_its_model_was_sent_answers_nothing(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--min-clients", "2", *FAST)
    (a,) = join(server, "a")
    early = connect(server.port)
    server.wait_for_sql(
        "SELECT 1 FROM v1_connections WHERE purpose = 'unknown' AND closed_at IS NULL AND connection_id > 1"
    )
    (b,) = join(server, "b")
    model = a.model()
    with early:
        send(early, a.body(model))
        assert early.recv(1) == b""
    a.upload(model)
    b.answer()
    for peer in (a, b):
        peer.finished()
    assert server.exit_code() == 0
    rows = server.sql("SELECT answers_round, decision FROM v1_updates WHERE client_id = 'a' ORDER BY update_id")
    assert rows == [(None, "duplicate"), (1, "accepted")]


def test_a_participant_that_died_rejoins_and_a_newcomer_does_not(start: Start, join: Join) -> None:
    server = start("--num-rounds", "2", "--min-clients", "3", *FAST)
    a, b, c = join(server, "a", "b", "c")
    c.model()
    c.connection.close()
    a.answer()
    server.wait_for_sql("SELECT 1 FROM v1_clients WHERE client_id = 'c' AND left_at IS NOT NULL")
    with Peer(server, "stranger") as stranger:
        refusal = stranger.register()
        assert refusal["header"] == "<ERROR>"
        assert refusal["msg"] == "The server has already started the training. You cannot participate now"
        assert stranger.connection.recv(1) == b""
    (again,) = join(server, "c")
    b.answer()
    last_round(a, b, again)
    assert server.exit_code() == 0
    assert server.sql("SELECT registration, left_reason FROM v1_clients WHERE client_id = 'c' ORDER BY 1")[-1] == (
        2,
        "finished",
    )
    assert server.sql("SELECT outcome FROM v1_messages WHERE client_id = 'stranger' AND direction = 'in'") == [
        ("refused",)
    ]


def test_an_id_whose_connection_lives_cannot_register_twice(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--min-clients", "2", *FAST)
    (a,) = join(server, 3)
    with Peer(server, "3") as twin:
        assert twin.register()["header"] == "<ERROR>"
    (b,) = join(server, 4)
    last_round(a, b)
    assert server.exit_code() == 0
    assert server.sql("SELECT data_size FROM v1_rounds WHERE round = 1") == [(200,)]


def test_a_missed_quorum_aborts_the_attempt_and_the_round_is_tried_again(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--min-clients", "2", *FAST)
    a, b = join(server, "a", "b")
    a.answer()
    b.model()
    b.connection.close()
    server.wait_for_sql("SELECT 1 FROM v1_clients WHERE client_id = 'b' AND left_at IS NOT NULL")
    (again,) = join(server, "b")
    last_round(a, again)
    assert server.exit_code() == 0
    rows = server.sql(
        "SELECT attempt, status, clients, updates_accepted FROM v1_rounds WHERE round = 1 ORDER BY attempt"
    )
    assert [row[:3] for row in rows] == [(1, "aborted", 2), (2, "committed", 2)]
    assert decisions(server, 1) == [("a", 1, "aborted"), ("a", 2, "accepted"), ("b", 2, "accepted")]


def test_too_many_missed_quorums_interrupt_the_run(start: Start, join: Join) -> None:
    server = start(
        "--num-rounds", "3", "--min-clients", "2", "--round-timeout", "0.5", "--round-attempts", "2", *FAST
    )  # fmt: skip
    a, b = join(server, "a", "b")
    stale = b.model()
    a.answer()
    server.wait_for_sql("SELECT 1 FROM v1_rounds WHERE status = 'aborted'")
    b.upload(stale)
    for peer in (a, b):
        peer.model()
    for peer in (a, b):
        peer.stopped()
    assert server.exit_code() == 3
    assert server.sql("SELECT status, rounds_committed FROM v1_runs") == [("interrupted", 0)]


def test_without_participants_it_waits_then_ends_resumable(start: Start, join: Join) -> None:
    server = start("--num-rounds", "3", "--min-clients", "2", "--time-to-wait", "0.3", "--rejoin-timeout", "0.5")
    a, b = join(server, "a", "b")
    a.answer()
    b.answer()
    b.model()
    b.connection.close()
    a.answer()
    a.stopped()
    assert server.exit_code() == 3
    assert server.sql("SELECT status, rounds_committed FROM v1_runs") == [("interrupted", 1)]
    server.wait_for_line("only 1 of the 2 participants")


def test_one_site_alone_makes_rounds_only_if_it_was_alone_from_the_start(start: Start, join: Join) -> None:
    server = start("--num-rounds", "2", *FAST)
    (a,) = join(server, "a")
    a.answer()
    a.answer()
    a.finished()
    assert server.exit_code() == 0
    assert server.sql("SELECT updates_accepted FROM v1_rounds WHERE round > 0") == [(1,), (1,)]


@pytest.mark.parametrize(
    ("value", "reason"), [(float("nan"), "non_finite: fc1.weight"), (float("inf"), "non_finite: fc1.weight")]
)
def test_a_nan_is_an_ok_message_and_a_rejected_update(start: Start, join: Join, value: float, reason: str) -> None:
    server = start("--num-rounds", "1", "--min-clients", "3", *FAST)
    a, b, c = join(server, "a", "b", "c")
    bad = c.model()
    with torch.no_grad():
        next(bad.parameters())[0, 0] = value
    c.upload(bad)
    for peer in (a, b):
        peer.answer()
    for peer in (a, b, c):
        peer.finished()
    assert server.exit_code() == 0
    ((decision, why, weight, outcome),) = server.sql(
        "SELECT decision, u.reason, weight, outcome FROM v1_updates u JOIN v1_messages USING (message_id)"
        " WHERE u.client_id = 'c'"
    )
    assert (decision, weight, outcome) == ("rejected", None, "ok")
    assert why.startswith(reason)


def test_a_peer_that_speaks_on_its_first_connection_is_let_go(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--min-clients", "3", *FAST)
    a, b, c = join(server, "a", "b", "c")
    c.model()
    send(c.connection, json.dumps({"header": "<METADATA>", "id": "c", "data_size": 5}).encode())
    last_round(a, b)
    assert server.exit_code() == 0
    assert server.sql("SELECT left_reason FROM v1_clients WHERE client_id = 'c'") == [("protocol",)]
    rows = server.sql("SELECT outcome FROM v1_messages WHERE client_id = 'c' AND direction = 'in' ORDER BY message_id")
    assert rows == [("ok",), ("refused",)]


def test_an_update_of_an_unknown_client_is_refused(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--min-clients", "2", *FAST)
    a, b = join(server, "a", "b")
    model = a.model()
    impostor = Peer(server, "nobody")
    with impostor:
        impostor.upload(model)
    a.upload(model)
    b.answer()
    for peer in (a, b):
        peer.finished()
    assert server.exit_code() == 0
    assert server.sql("SELECT outcome FROM v1_messages WHERE client_id = 'nobody'") == [("refused",)]
    assert server.sql("SELECT COUNT(*) FROM v1_updates WHERE client_id = 'nobody'") == [(0,)]


def test_a_slow_reader_of_the_broadcast_holds_nobody_up(start: Start, join: Join) -> None:
    server = start("--num-rounds", "2", "--min-clients", "3", "--round-timeout", str(DEADLINE), *FAST)
    a, b, c = join(server, "a", "b", "c")  # c reads nothing: its answer cannot come
    for _ in range(2):
        for peer in (a, b):
            peer.answer()
    for peer in (a, b):
        peer.finished()
    assert receive(c.connection)
    assert server.exit_code() == 0
    assert server.sql("SELECT participation FROM v1_client_rounds WHERE client_id = 'c' ORDER BY round") == [
        ("timed_out",),
        ("not_sent",),
    ]
