"""How many samples clients say they have, and what they say they measured: on record, and of bounded effect."""

import math
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.certificates import Authority
from tests.e2e.agreement import assert_metrics_say_what_sql_says
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer, ServerProcess
from tests.e2e.tls_peers import served, trusting
from tests.patience import PATIENCE
from tests.soak.models import on_grid

MOST = 2**29 - 1
OWNED = ("66", "67", "68")  # three clients of one owner


class PeerFrom(Peer):
    """A trainer behind a forwarder that says from which address it comes: none of this machine's."""

    def __init__(self, server: ServerProcess, client_id: object, host: str, data_size: int) -> None:
        self.host = host
        super().__init__(server, client_id, data_size)

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        connection.sendall(f"PROXY TCP4 {self.host} 127.0.0.1 50000 50052\r\n".encode())
        return connection


@pytest.fixture
def peers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def honest_and_owned(server: ServerProcess, stack: ExitStack) -> tuple[list[Peer], list[Peer]]:
    honest = [PeerFrom(server, 1, "10.0.0.1", 100), PeerFrom(server, 2, "10.0.0.2", 300)]
    owned = [PeerFrom(server, client, "10.0.0.66", MOST) for client in OWNED]
    for peer in (*honest, *owned):
        stack.enter_context(peer).join()
    return [*honest], [*owned]


def mean(models: list[nn.Module], sizes: list[int]) -> dict[str, torch.Tensor]:
    states = [model.state_dict() for model in models]
    return {
        name: (sum(state[name].double() * n for state, n in zip(states, sizes, strict=True)) / sum(sizes)).float()  # type: ignore[union-attr]
        for name in states[0]
    }


def model_of(server: ServerProcess, round: int) -> dict[str, torch.Tensor]:
    ((path,),) = server.sql("SELECT checkpoint FROM v1_rounds WHERE round = ? AND status = 'committed'", round)
    return dict(load_file(server.db.with_name("runs.sqlite.checkpoints") / path))


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


COUNTED = (
    "SELECT client_id, decision, data_size, counted_size, weight FROM v1_updates WHERE answers_round = ? ORDER BY 1"
)


def test_an_owner_counts_with_no_more_than_its_share(start: Start, peers: ExitStack) -> None:
    """Three clients of one address who say that they have 2²⁹ − 1 samples each, beside 100 and 300."""
    options = ("--trusted-proxy", "127.0.0.1", "--max-weight-share", "cap:0.5", "--metrics-linger", str(PATIENCE))
    server = start("--num-rounds", "2", "--min-clients", "5", *FAST, *options)
    honest, owned = honest_and_owned(server, peers)
    first = [peer.answer(0.25 * number) for number, peer in enumerate((*honest, *owned))]
    second = [peer.model() for peer in (*honest, *owned)]
    assert server.sql(COUNTED, 1) == [
        ("1", "accepted", 100, 100, 100 / 800),
        ("2", "accepted", 300, 300, 300 / 800),
        ("66", "accepted", MOST, 133, 133 / 800),
        ("67", "accepted", MOST, 133, 133 / 800),
        ("68", "accepted", MOST, 134, 134 / 800),
    ]
    assert_same_bits(model_of(server, 1), mean(first, [100, 300, 133, 133, 134]))
    # Two of the owner's say nothing more: the cap is of those invited, so the third one has its part of it.
    for peer in owned[1:]:
        peer.connection.close()
    for peer, model in zip((*honest, owned[0]), second[:3], strict=True):
        peer.upload(model)
    for peer in (*honest, owned[0]):
        peer.finished()
    server.wait_for_line("metrics stay")
    assert [row[3] for row in server.sql(COUNTED, 2)] == [100, 300, 133]
    sums = """
        SELECT r.round, r.data_size, SUM(u.counted_size), SUM(c.counted_size), SUM(u.weight) FROM v1_rounds r
        JOIN v1_updates u ON u.answers_round = r.round AND u.answers_attempt = r.attempt AND u.decision = 'accepted'
        JOIN v1_client_rounds c ON c.round = r.round AND c.attempt = r.attempt AND c.client_id = u.client_id
        GROUP BY 1 ORDER BY 1"""
    assert server.sql(sums) == [(1, 800, 800, 800, 1.0), (2, 533, 533, 533, 1.0)]
    assert "of the weight" not in server.log
    assert_metrics_say_what_sql_says(server)
    server.process.terminate()
    assert server.exit_code() == 0


class CertifiedPeer(PeerFrom):
    """The same with a certificate of its own: the forwarder passes TLS on."""

    def __init__(self, server: ServerProcess, client_id: str, authority: Authority, data_size: int) -> None:
        self.context = trusting(authority, authority.client(client_id))
        super().__init__(server, client_id, "10.0.0.66", data_size)

    def connect(self) -> socket.socket:
        return self.context.wrap_socket(super().connect(), server_hostname="localhost")

    def end_of_upload(self, upload: socket.socket) -> None:
        """Nothing: an SSLSocket that was shut down reads what is under TLS."""


def test_under_mutual_tls_a_certificate_is_an_owner_wherever_it_comes_from(
    start: Start, peers: ExitStack, tmp_path: Path
) -> None:
    """Five clients of one address, of which two say that they have 2²⁹ − 1 samples each: each of these has its share
    and no more, and the honest ones, whose neighbours they are, count with all that they have."""
    authority = Authority(tmp_path / "ca")
    options = ("--trusted-proxy", "127.0.0.1", "--max-weight-share", "cap:0.3", *served(authority, mutual=True))
    server = start("--num-rounds", "1", "--min-clients", "5", *FAST, *options)
    sizes = {"1": 100, "2": 300, "3": 200, "66": MOST, "67": MOST}
    clients = [peers.enter_context(CertifiedPeer(server, one, authority, size)) for one, size in sizes.items()]
    for client in clients:
        client.join()
    models = [client.answer(0.25 * number) for number, client in enumerate(clients)]
    for client in clients:
        client.finished()
    assert server.exit_code() == 0
    counted = [100, 300, 200, 450, 450]
    assert [row[3] for row in server.sql(COUNTED, 1)] == counted
    assert 0.3 * sum(counted) == 450
    assert_same_bits(model_of(server, 1), mean(models, counted))


def test_an_owner_of_more_than_its_share_is_rejected_and_costs_the_others_nothing(
    start: Start, peers: ExitStack
) -> None:
    """The same three without a cap: of each one the share is less than a half, and of all of them more."""
    options = ("--trusted-proxy", "127.0.0.1", "--max-weight-share", "0.5")
    server = start("--num-rounds", "2", "--min-clients", "5", *FAST, *options)
    honest, owned = honest_and_owned(server, peers)
    for round in (1, 2):
        for peer in owned:
            peer.answer(1e6)
        models = [peer.answer(0.25 * number + round) for number, peer in enumerate(honest)]
        if round == 1:
            server.wait_for_line("round 1/2 committed")
            assert_same_bits(model_of(server, 1), mean(models, [100, 300]))
    for peer in (*honest, *owned):
        peer.finished()
    assert server.exit_code() == 0
    assert_same_bits(model_of(server, 2), mean(models, [100, 300]))
    shares = "1610612733 of the 1610613133 samples invited, more than a share of 0.5"
    assert server.sql("SELECT client_id, reason FROM v1_updates WHERE decision = 'rejected' AND answers_round = 1") == [
        (client, f"weight_share: the 3 clients of 10.0.0.66 have {shares}") for client in OWNED
    ]
    assert server.sql("SELECT client_id, data_size, counted_size FROM v1_updates WHERE answers_round = 2") == [
        *((client, MOST, MOST) for client in OWNED),
        ("1", 100, 100),
        ("2", 300, 300),
    ]


LIES = (
    {"accuracy": 1e100, "loss": 1e300},
    {"accuracy": -0.5, "loss": math.nan},
    {"accuracy": math.nan, "loss": -math.inf},
    {"accuracy": 1.5, "loss": 1e6},
)


def test_reported_numbers_that_cannot_be_so_are_on_record_and_in_no_mean(start: Start, peers: ExitStack) -> None:
    """Of a client that says it has nearly all of the samples, which is said once, too. The models are what they are
    whatever anybody reports: the mean by its definition."""
    rounds = len(LIES)
    server = start("--num-rounds", str(rounds), "--min-clients", "3", *FAST, "--metrics-linger", str(PATIENCE))
    a, b, liar = (
        peers.enter_context(Peer(server, client, size)).join() for client, size in (("a", 100), ("b", 300), ("z", MOST))
    )
    sent: list[list[nn.Module]] = []
    for number, lie in enumerate(LIES):
        measured = (
            (a, {"accuracy": 0.5, "loss": 2.0}, 0.25 + number),
            (b, {"accuracy": 0.25, "loss": 1.0 + number}, -0.75),
            (liar, lie, 0.125),
        )
        sent.append([])
        for peer, said, step in measured:
            model = peer.model()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(step)
            sent[-1].append(on_grid(model))
            peer.upload(model, metrics={name: {"received": value} for name, value in said.items()})
    for peer in (a, b, liar):
        peer.finished()
    server.wait_for_line("metrics stay")
    means = "SELECT round, name, value FROM v1_round_metrics WHERE source = 'clients' ORDER BY 1, 2"
    assert server.sql(means) == [
        row
        for round in range(rounds)
        for row in ((round, "accuracy", 0.3125), (round, "loss", (2.0 + 3 * (1.0 + round)) / 4))
    ]
    said = "SELECT name, value, note FROM v1_client_metrics WHERE client_id = 'z' ORDER BY round, name"
    assert server.sql(said) == [
        *(("accuracy", 1e100, None), ("loss", 1e300, None)),
        *(("accuracy", -0.5, None), ("loss", None, "NaN")),
        *(("accuracy", None, "NaN"), ("loss", None, "-Infinity")),
        *(("accuracy", 1.5, None), ("loss", 1e6, None)),
    ]
    metrics = server.metrics()
    assert metrics["flserver_clients_accuracy_ratio"] == 0.3125
    assert metrics["flserver_clients_loss"] == (2.0 + 3 * rounds) / 4
    assert_metrics_say_what_sql_says(server)
    for round, models in enumerate(sent, 1):
        assert_same_bits(model_of(server, round), mean(models, [100, 300, MOST]))
    warned = [line for line in server.lines if "of the weight" in line]
    assert [line.partition("WARNING ")[2] for line in warned] == [
        "round 1/4: client z has 0.9999993 of the weight; --max-weight-share limits that"
    ]
    server.process.terminate()
    assert server.exit_code() == 0
