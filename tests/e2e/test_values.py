"""Well-formed updates with values that nobody trains, beside two honest trainers whose model they must not touch."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer, ServerProcess

SPEC = "valued:Valued"
VALUED = """
import torch
from torch import nn


class Valued(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("order", torch.arange(6000))
        self.register_buffer("mask", torch.tensor([True, False]))
"""
Spoil = Callable[[nn.Module], object]

REJECTED: dict[str, tuple[int, str, Spoil]] = {
    "3e38 in a weight": (1, "norm: the norm ", lambda m: m.fc.weight.data[0].fill_(3e38)),
    "1e19 in a bias": (2, "norm: the norm ", lambda m: m.fc.bias.data.fill_(-1e19)),
    "3e38 as a running mean": (3, "norm: the norm ", lambda m: m.norm.running_mean.fill_(3e38)),
    "a negative variance": (4, "other: norm.running_var", lambda m: m.norm.running_var.fill_(-1.0)),
    "a step of a million": (5, "norm: the norm ", lambda m: m.fc.weight.data.add_(1e6)),
    "a variance of a billion": (6, "norm: the buffers' norm ", lambda m: m.norm.running_var.fill_(1e9)),
    "a step of ten thousand in one weight": (7, "norm: the norm ", lambda m: m.fc.weight.data[0, 0].sub_(1e4)),
}
"""What is done to a model, in which round, and what the update's reason begins with. The last three are too far only
after three rounds."""

OUTVOTED: dict[str, Spoil] = {
    "an index beyond all": lambda m: m.order.fill_(2**62),
    "a counter at its end": lambda m: m.norm.num_batches_tracked.fill_(2**63 - 1),
    "a mask turned over": lambda m: m.mask.logical_not_(),
    "an order turned round": lambda m: m.order.copy_(m.order.flip(0)),
}
ROUNDS = len(REJECTED) + len(OUTVOTED)


def trained(peer: Peer, change: float) -> nn.Module:
    """An honest step: the parameters, running statistics and the counter move."""
    model = peer.model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(change)
        model.norm.running_mean.add_(change)
        model.norm.num_batches_tracked.add_(8)
    return model


def states_of(server: ServerProcess) -> dict[int, dict[str, torch.Tensor]]:
    rows = server.sql("SELECT round, checkpoint FROM v1_rounds WHERE status = 'committed'")
    return {round: load_file(server.db.with_name("runs.sqlite.checkpoints") / path) for round, path in rows}


def digests(server: ServerProcess) -> dict[int, str]:
    return dict(server.sql("SELECT round, model_digest FROM v1_rounds WHERE status = 'committed'"))


@pytest.fixture(autouse=True)
def _model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "valued.py").write_text(VALUED)
    monkeypatch.syspath_prepend(tmp_path)


def test_no_single_clients_values_reach_the_model(start: Start, tmp_path: Path) -> None:
    """One server under attack, killed and resumed in its middle, and one without the attacker: the same bits."""
    attacked = start("--num-rounds", str(ROUNDS), "--min-clients", "3", "--model", SPEC, *FAST)
    by_round = {round: (reason, spoil) for round, reason, spoil in REJECTED.values()}
    with ExitStack() as stack:

        def peers() -> list[Peer]:
            sizes = {"a-mallory": 1, "b": 100, "c": 300}
            return [stack.enter_context(Peer(attacked, name, data_size=n)).join() for name, n in sizes.items()]

        mallory, *honest = peers()
        for round in range(1, ROUNDS + 1):
            if round == 6:  # the history is kept
                attacked.wait_for_sql("SELECT 1 FROM v1_rounds WHERE round = 5 AND status = 'committed'")
                attacked.kill()
                attacked = start("--resume", *FAST)
                mallory, *honest = peers()
            wrong = mallory.model()
            spoil = by_round[round][1] if round in by_round else list(OUTVOTED.values())[round - len(REJECTED) - 1]
            spoil(wrong)
            if round % 2:  # before the others, or after one of them
                mallory.upload(wrong)
            honest[0].upload(trained(honest[0], 0.25 * round))
            if not round % 2:
                mallory.upload(wrong)
            honest[1].upload(trained(honest[1], -0.125 * round))
        for peer in (mallory, *honest):
            peer.finished()
    assert attacked.exit_code() == 0
    assert "Traceback" not in attacked.log
    rejected = "SELECT answers_round, reason FROM v1_updates WHERE client_id = 'a-mallory' AND decision = 'rejected'"
    reasons = dict(attacked.sql(rejected))
    assert reasons.keys() == by_round.keys()
    for round, (reason, _) in by_round.items():
        assert reasons[round].startswith(reason)
    seats = (
        "SELECT DISTINCT decision FROM v1_client_rounds WHERE client_id LIKE 'a%' AND round <= ? AND decision NOT NULL"
    )
    assert attacked.sql(seats, len(REJECTED)) == [("rejected",)]
    assert attacked.sql("SELECT DISTINCT decision FROM v1_updates WHERE client_id <> 'a-mallory'") == [("accepted",)]
    for round, state in states_of(attacked).items():
        assert torch.equal(state["order"], torch.arange(6000)), round
        assert state["mask"].tolist() == [True, False]
        assert state["norm.num_batches_tracked"].item() == 8 * round

    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "valued.py").write_text(VALUED)
    arguments = ("--num-rounds", str(len(REJECTED)), "--min-clients", "2", "--model", SPEC, *FAST)
    with ServerProcess(tmp_path / "alone", *arguments) as alone, Peer(alone, "b", 100) as b, Peer(alone, "c", 300) as c:
        for peer in (b, c):
            peer.join()
        for round in range(1, len(REJECTED) + 1):
            b.upload(trained(b, 0.25 * round))
            c.upload(trained(c, -0.125 * round))
        for peer in (b, c):
            peer.finished()
        assert alone.exit_code() == 0
        same = digests(attacked)
        assert digests(alone) == {round: same[round] for round in range(len(REJECTED) + 1)}


def test_where_half_of_the_clients_take_a_large_step_nobody_is_rejected(
    start: Start, join: Callable[..., list[Peer]]
) -> None:
    """A model may do that; and metrics say what SQL says of those who were decided late."""
    server = start("--num-rounds", "5", "--min-clients", "3", "--metrics-linger", "3600", *FAST)
    a, b, c = join(server, "a", "b", "c")
    for _ in range(3):
        for peer in (a, b, c):
            peer.answer(0.5)
    for peer, step in ((a, 1e4), (b, 0.5), (c, 1e4)):
        peer.answer(step)
    for peer, step in ((a, 1e9), (b, 0.5), (c, 1e4)):
        peer.answer(step)
    for peer in (a, b, c):
        peer.finished()
    server.wait_for_line("metrics stay")
    metrics = server.metrics()
    server.process.terminate()
    assert server.exit_code() == 0
    decided = dict(server.sql("SELECT answers_round, GROUP_CONCAT(decision) FROM v1_updates GROUP BY 1"))
    assert decided[4] == "accepted,accepted,accepted"
    assert sorted(decided[5].split(",")) == ["accepted", "accepted", "rejected"]
    server.wait_for_line(r"round 4/5: 2 of 3 clients sent too large an update: norm: .*; they count: a, c")
    server.wait_for_line(r"update of client a rejected: norm: the norm 8\.86e\+10 is more than 8\.86e\+08")
    assert metrics['flserver_updates_total{decision="rejected"}'] == 1
    assert metrics['flserver_updates_total{decision="accepted"}'] == 14
    assert metrics['flserver_rejected_updates_total{reason="norm"}'] == 1
    assert metrics["flserver_round_updates"] == 2


OVERSHOOT = """
from flserver.aggregation import FedAvg


class Overshoot(FedAvg):
    def begin(self, global_state):
        super().begin(global_state)
        self.before = global_state

    def finish(self):
        mean = super().finish()
        floats = {name: value for name, value in mean.items() if value.is_floating_point()}
        return mean | {name: self.before[name] + 5 * (value - self.before[name]) for name, value in floats.items()}
"""


def test_a_model_that_cannot_be_meant_is_made_again_without_whoever_was_furthest(
    start: Start, join: Callable[..., list[Peer]], tmp_path: Path
) -> None:
    """And where that does not help, the run ends, and its log says what to do."""
    (tmp_path / "overshoot.py").write_text(OVERSHOOT)
    strategy = ("--strategy", "overshoot:Overshoot", "--round-attempts", "2")
    server = start("--num-rounds", "2", "--min-clients", "3", "--model", SPEC, *strategy, *FAST)

    mallory, b, c = join(server, "a-mallory", "b", "c")
    for spoilers, honest in (([mallory], [b, c]), ([], [b, c]), ([mallory], [b, c]), ([b], [c])):  # the attempts
        for peer in spoilers:
            model = peer.model()
            model.norm.running_var.zero_()
            peer.upload(model)
        for peer in honest:
            peer.answer(0.1)
    for peer in (mallory, b, c):
        peer.stopped()
    assert server.exit_code() == 3
    attempts = "SELECT round, attempt, status, clients FROM v1_rounds WHERE round > 0 ORDER BY 1, 2"
    tried = [(1, 1, "aborted", 3), (1, 2, "committed", 2), (2, 1, "aborted", 3), (2, 2, "aborted", 2)]
    assert server.sql(attempts) == tried
    aborted = "SELECT DISTINCT reason FROM v1_updates WHERE decision = 'aborted'"
    assert server.sql(aborted) == [("implausible",)]
    left_out = "SELECT round, attempt, client_id, reason FROM v1_client_rounds WHERE participation = 'not_sent'"
    assert server.sql(left_out) == [(1, 2, "a-mallory", "implausible"), (2, 2, "a-mallory", "implausible")]
    variance = r"norm\.running_var holds a negative variance"
    server.wait_for_line(f"attempt 1 aborted .*implausible: {variance}; client a-mallory, whose update is the furthest")
    server.wait_for_line(rf"interrupted: round 2 would have been an implausible model \({variance}\) 2 times")
    server.wait_for_line(
        r"to start anew from round 0, the last that may be sound: .*flserver --db \S+ --run-name \S+ --resume-from 0$"
    )

    again = start("--resume", "--min-clients", "2", "--min-updates", "2", *FAST)
    b, c = join(again, "b", "c")
    for _ in range(2):
        for peer in (b, c):
            model = peer.model()
            model.fc.weight.data[0].fill_(float("nan"))
            peer.upload(model)
    for peer in (b, c):
        peer.stopped()
    assert again.exit_code() == 3
    again.wait_for_line(
        r"aborted .*quorum: all updates hold NaN or infinity: the model that was sent is the likely cause"
    )
    again.wait_for_line(r"to start anew from round 0, .* --resume-from 0$")
    assert "Traceback" not in server.log + again.log
