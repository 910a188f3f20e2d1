"""What a researcher changes: a strategy with a state of its own, and trainers that measure."""

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flserver.models.architectures import build
from flserver.models.datasets import load_test
from flserver.models.measuring import loss_and_accuracy
from tests.e2e.conftest import Start
from tests.e2e.harness import Peer, ServerProcess
from tests.e2e.trainers import our_trainers

MOMENTUM = '''
"""FedAvg with momentum on the server (Hsu et al., 2019): one class in one file."""
import torch
from flserver.aggregation.strategies.fedavg import FedAvg


class Momentum(FedAvg):
    def __init__(self):
        super().__init__()
        self.velocity = {}

    def begin(self, global_state):
        super().begin(global_state)
        self.before = global_state

    def finish(self):
        mean = super().finish()
        for name, value in mean.items():
            if value.is_floating_point():  # counters, such as BatchNorm's, have their median
                step = value - self.before[name]
                self.velocity[name] = 0.9 * self.velocity.get(name, torch.zeros_like(step)) + step
                mean[name] = self.before[name] + self.velocity[name]
        return mean

    def state(self):
        return self.velocity

    def load_state(self, state):
        self.velocity = dict(state)
'''


def momentum_run(folder: Path, *, killed_after: int | None) -> ServerProcess:
    """Five rounds of two peers whose changes depend on the round alone."""
    folder.mkdir()
    (folder / "momentum.py").write_text(MOMENTUM)
    arguments = ["--num-rounds", "5", "--min-clients", "2", "--time-to-wait", "0.3", "--strategy", "momentum:Momentum"]
    with ExitStack() as stack:
        server = stack.enter_context(ServerProcess(folder, *arguments))
        peers = [stack.enter_context(Peer(server, client)).join() for client in ("a", "b")]
        for round in range(1, 6):
            for i, peer in enumerate(peers):
                peer.answer(0.1 * round + 0.01 * i)
            if round == killed_after:
                peers[0].model()
                server.kill()
                server = stack.enter_context(ServerProcess(folder, "--resume", "--time-to-wait", "0.3"))
                peers = [stack.enter_context(Peer(server, client)).join() for client in ("a", "b")]
        for peer in peers:
            peer.finished()
        assert server.exit_code() == 0
        return server


def test_a_strategy_with_state_resumes_to_the_same_bits(tmp_path: Path) -> None:
    whole = momentum_run(tmp_path / "whole", killed_after=None)
    broken = momentum_run(tmp_path / "broken", killed_after=3)
    digests = "SELECT round, model_digest FROM v1_rounds WHERE status = 'committed' ORDER BY round"
    assert whole.sql(digests) == broken.sql(digests)
    assert len(whole.sql(digests)) == 6
    (path,) = whole.sql("SELECT checkpoint FROM v1_rounds WHERE round = 5")[0]
    tensors = load_file(whole.db.with_name("runs.sqlite.checkpoints") / path)
    assert {name.rpartition("__.")[2] for name in tensors} == {"fc1.weight", "fc1.bias"}
    assert len(tensors) == 4


def test_what_our_trainers_measure_lands_on_the_round_of_the_model_they_measured(start: Start) -> None:
    server = start("--num-rounds", "3", "--min-clients", "2", "--time-to-wait", "0.3", "--eval-data", "digits")
    with our_trainers(server, 1, 2, dataset="digits", num_clients=2):
        assert server.exit_code() == 0
    x, y = load_test("digits", None)
    for round, accuracy, path in server.sql(
        "SELECT round, accuracy, checkpoint FROM v1_rounds WHERE status = 'committed' AND round < 3 ORDER BY round"
    ):
        state = load_file(server.db.with_name("runs.sqlite.checkpoints") / path)
        module = build("neural_net_helper:NeuralNet", 0)
        module.load_state_dict(state)
        _, evaluated = loss_and_accuracy(module, x, y, torch.device("cpu"))
        assert evaluated == accuracy
        reported = server.sql(
            "SELECT client_id, value FROM v1_client_metrics"
            " WHERE round = ? AND name = 'accuracy' AND measured_on = 'received' ORDER BY client_id",
            round,
        )
        assert reported == [("1", pytest.approx(evaluated)), ("2", pytest.approx(evaluated))]
    ((info,),) = server.sql("SELECT info FROM v1_clients WHERE client_id = '1'")
    assert '"epochs"' in info


NORMED = """
import torch
from torch import nn


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        return self.head(self.norm(self.conv(x.view(-1, 1, 28, 28))).mean(dim=(2, 3)))
"""


def test_a_model_of_ones_own_with_batchnorm(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "normed.py").write_text(NORMED)
    monkeypatch.syspath_prepend(tmp_path)
    server = start("--num-rounds", "1", "--min-clients", "2", "--time-to-wait", "0.3", "--model", "normed:Normed")
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(server, client, data_size=n)).join() for client, n in (("a", 1), ("b", 3))]
        for peer, count, mean in zip(peers, (5, 3), (1.0, 2.0), strict=True):
            model = peer.model()
            model.norm.num_batches_tracked.fill_(count)
            model.norm.running_mean.fill_(mean)
            peer.upload(model.half().float() if peer is peers[0] else model)
        for peer in peers:
            peer.finished()
    assert server.exit_code() == 0
    (path,) = server.sql("SELECT checkpoint FROM v1_rounds WHERE round = 1")[0]
    state = load_file(server.db.with_name("runs.sqlite.checkpoints") / path)
    assert state["norm.num_batches_tracked"].item() == 3, "the lower of two"
    assert state["norm.running_mean"].tolist() == [1.75] * 4


def test_our_trainers_come_back_after_a_crash(start: Start) -> None:
    server = start("--num-rounds", "400", "--min-clients", "2", "--time-to-wait", "0.5")
    with our_trainers(server, 1, 2, dataset="digits", num_clients=2, reconnect=3600):
        server.wait_for_line("round 5/400 committed")
        server.kill()
        ((before,),) = server.sql("SELECT COUNT(*) FROM v1_rounds WHERE status = 'committed'")
        resumed = start("--resume", "--server-port", str(server.port), "--num-rounds", str(before + 20))
        assert resumed.exit_code() == 0
    assert resumed.sql("SELECT status FROM v1_runs") == [("completed",)]
    committed = resumed.sql("SELECT COUNT(*), COUNT(DISTINCT round) FROM v1_rounds WHERE status = 'committed'")
    assert committed == [(before + 21, before + 21)]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise KeyError('oops')", "the strategy failed: KeyError: 'oops'"),
        ("return {}", "the strategy's new model"),
        ("return {n: t.half() for n, t in super().finish().items()}", "has dtype float16 where float32 is needed"),
    ],
)
def test_a_strategy_that_fails_leaves_nothing_undecided(start: Start, tmp_path: Path, body: str, reason: str) -> None:
    (tmp_path / "broken.py").write_text(
        "from flserver.aggregation.strategies.fedavg import FedAvg\n\n\n"
        f"class Broken(FedAvg):\n    def finish(self):\n        {body}\n"
    )
    server = start("--num-rounds", "3", "--min-clients", "2", "--time-to-wait", "0.3", "--strategy", "broken:Broken")
    with Peer(server, "a").join() as a, Peer(server, "b").join() as b:
        a.answer()
        b.answer()
        a.stopped()
        b.stopped()
    assert server.exit_code() == 1
    assert any(reason in line and "ERROR" in line for line in server.lines)
    assert server.sql("SELECT status FROM v1_runs") == [("failed",)]
    assert server.sql("SELECT status FROM v1_rounds WHERE round = 1") == [("aborted",)]
    assert server.sql("SELECT decision, reason FROM v1_updates") == [("aborted", "failed"), ("aborted", "failed")]
    assert server.sql("SELECT participation FROM v1_client_rounds") == [("answered",), ("answered",)]
