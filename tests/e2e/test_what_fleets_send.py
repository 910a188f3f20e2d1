"""What trainers in the field hand back instead of the plain model they were sent: what fits counts, and nobody waits
for what does not."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer, ServerProcess, field_module, send

Join = Callable[..., list[Peer]]
FOREVER = ("--round-timeout", "86400")  # a round that somebody is waited for in would not end


def trained(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.25)
    return model


def averaged(model: nn.Module) -> nn.Module:
    made = torch.optim.swa_utils.AveragedModel(model)
    made.update_parameters(model)
    return made


def round_with(server: ServerProcess, peers: list[Peer], odd: Callable[[Peer, nn.Module], None]) -> None:
    """One round in which all but the first peer answer plainly."""
    for peer in peers[1:]:
        peer.answer(0.25)
    odd(peers[0], trained(peers[0].model()))


@pytest.fixture
def fleet(start: Start, join: Join) -> tuple[ServerProcess, list[Peer]]:
    server = start("--num-rounds", "1", "--min-clients", "3", *FAST, *FOREVER)
    return server, join(server, 1, 2, 3)


def ends(server: ServerProcess, peers: list[Peer]) -> dict[str, tuple[Any, ...]]:
    """The run is complete; decision, reason and digest by client."""
    for peer in peers:
        peer.finished()
    assert server.exit_code() == 0
    rows = server.sql("SELECT client_id, decision, reason, update_digest FROM v1_updates")
    assert len(rows) == len(peers)
    return {client: row for client, *row in rows}


@pytest.mark.parametrize(
    ("wrap", "note"),
    [
        (nn.DataParallel, "unwrapped: module."),
        (averaged, "unwrapped: module."),
        (lambda model: nn.DataParallel(nn.DataParallel(model)), "unwrapped: module.module."),
        (torch.compile, None),
        (nn.Module.half, "converted: float16"),
        (nn.Module.bfloat16, "converted: bfloat16"),
        (nn.Module.double, "converted: float64"),
        (lambda model: nn.DataParallel(model.half()), "unwrapped: module.; converted: float16"),
    ],
    ids=["DataParallel", "AveragedModel", "twice", "compile", "half", "bfloat16", "double", "both"],
)
def test_wrapped_and_converted_models_count(
    fleet: tuple[ServerProcess, list[Peer]], wrap: Callable[[nn.Module], nn.Module], note: str | None
) -> None:
    server, peers = fleet
    round_with(server, peers, lambda peer, model: peer.upload(wrap(model)))
    rows = ends(server, peers)
    assert {client: row[0] for client, row in rows.items()} == dict.fromkeys("123", "accepted")
    if note is not None:  # what torch.compile writes depends on torch's version
        assert server.sql("SELECT reason, outcome FROM v1_messages WHERE client_id = '1' AND direction = 'in'")[1:] == [
            (note, "ok")
        ]
    ((weights,),) = server.sql("SELECT COUNT(DISTINCT update_digest) FROM v1_updates")
    assert weights == (1 if note is None else 2), "the digest is that of what was sent"
    assert server.sql("SELECT SUM(weight) FROM v1_updates") == [(1.0,)]


def model_of(state: object) -> Callable[[Peer, nn.Module], None]:
    def upload(peer: Peer, model: nn.Module) -> None:
        with field_module():
            body = pickle.dumps({"header": "<MODEL>", "id": peer.client_id, "model": state})
        with peer.connect() as connection:
            send(connection, body)
            peer.end_of_upload(connection)
            assert connection.recv(1) == b""

    return upload


def state_dict(peer: Peer, model: nn.Module) -> None:
    model_of(model.state_dict())(peer, model)


def too_large(peer: Peer, model: nn.Module) -> None:
    model.register_buffer("extra", torch.zeros(10**6))
    peer.upload(model)


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (state_dict, "unreadable: dict is not a module: send the module itself, not its state_dict()"),
        (model_of(None), "unreadable: NoneType is not a module"),
        (model_of([torch.zeros(3)]), "unreadable: list is not a module"),
        (model_of(b"weights"), "unreadable: memoryview is not a module"),
    ],
    ids=["state_dict", "None", "list", "bytes"],
)
def test_an_upload_that_cannot_be_read_answers_its_model(
    fleet: tuple[ServerProcess, list[Peer]], odd: Callable[[Peer, nn.Module], None], reason: str
) -> None:
    server, peers = fleet
    round_with(server, peers, odd)
    rows = ends(server, peers)
    assert rows["1"] == ["rejected", reason, None]
    assert rows["2"][0] == rows["3"][0] == "accepted"
    assert server.sql("SELECT participation, decision, reason FROM v1_client_rounds WHERE client_id = '1'") == [
        ("answered", "rejected", reason)
    ]
    assert server.sql(
        "SELECT m.header, m.client_id, m.round, m.outcome, m.reason, c.purpose, c.client_id"
        " FROM v1_messages m JOIN v1_connections c USING (connection_id) WHERE m.outcome <> 'ok'"
    ) == [("<MODEL>", "1", 1, "refused", reason.removeprefix("unreadable: "), "upload", "1")]


def test_one_whose_sender_another_claims_to_be_answers_nothing(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--min-clients", "2", *FAST, *FOREVER)
    one, two = join(server, 1, 2)
    model = one.model()
    with field_module():
        body = pickle.dumps({"header": "<MODEL>", "id": 9, "model": model.state_dict()})
    with one.connect() as connection:
        send(connection, body)
        one.end_of_upload(connection)
        assert connection.recv(1) == b""
    one.upload(trained(model))
    two.answer(0.25)
    rows = ends(server, [one, two])
    assert {client: row[0] for client, row in rows.items()} == {"1": "accepted", "2": "accepted"}
    ((client, purpose, reason),) = server.sql(
        "SELECT m.client_id, c.purpose, m.reason FROM v1_messages m JOIN v1_connections c USING (connection_id)"
        " WHERE m.outcome = 'refused'"
    )
    assert (client, purpose) == (None, "upload")
    assert reason.endswith("; it says that it is of client 9")


def test_a_frame_over_its_limit_from_loopback_answers_nothing_and_names_whose_it_could_be(
    start: Start, join: Join
) -> None:
    server = start("--num-rounds", "1", "--min-clients", "2", "--max-update-size", "100000", *FAST, *FOREVER)
    one, two = join(server, 1, 2)
    model = one.model()
    with one.connect() as connection:
        connection.sendall((100_001).to_bytes(8, "big"))
        assert connection.recv(1) == b""
    one.upload(trained(model))
    two.answer(0.25)
    rows = ends(server, [one, two])
    assert {row[0] for row in rows.values()} == {"accepted"}
    ((client, reason),) = server.sql("SELECT client_id, reason FROM v1_messages WHERE outcome = 'refused'")
    assert client is None
    assert "it could be of client 1, 2" in reason


def test_one_that_holds_too_much_is_rejected_by_its_size(fleet: tuple[ServerProcess, list[Peer]]) -> None:
    server, peers = fleet

    def many_names(peer: Peer, model: nn.Module) -> None:
        big = nn.Parameter(torch.zeros(784, 10))
        for number in range(20):
            model.register_parameter(f"again{number}", big)
        peer.upload(model)

    round_with(server, peers, many_names)
    decision, reason, digest = ends(server, peers)["1"]
    assert (decision, digest) == ("rejected", None)
    assert reason.startswith("size: its tensors hold more than")


@pytest.mark.parametrize("data_size", [-1, 1.5, True, "100", None])
def test_a_refused_registration_is_on_record_with_what_it_said_of_itself(start: Start, data_size: object) -> None:
    server = start("--min-clients", "1", *FAST)
    with Peer(server, 7) as peer:
        assert peer.register(data_size=data_size)["header"] == "<ERROR>"
        assert peer.connection.recv(1) == b""
    server.wait_for_sql("SELECT 1 FROM v1_connections WHERE closed_at IS NOT NULL")
    assert server.sql(
        "SELECT m.header, m.client_id, m.outcome, c.purpose, c.client_id"
        " FROM v1_messages m JOIN v1_connections c USING (connection_id) WHERE m.direction = 'in'"
    ) == [("<METADATA>", "7", "refused", "register", "7")]


def test_metrics_count_the_new_kinds(fleet: tuple[ServerProcess, list[Peer]]) -> None:
    server, peers = fleet
    for peer in peers[1:]:
        peer.model()
    state_dict(peers[0], peers[0].model())
    server.wait_for_sql("SELECT 1 FROM v1_updates")
    metrics = server.metrics()
    assert metrics['flserver_rejected_updates_total{reason="unreadable"}'] == 1
    assert metrics['flserver_rejected_updates_total{reason="size"}'] == 0
    assert metrics['flserver_updates_total{decision="rejected"}'] == 1
