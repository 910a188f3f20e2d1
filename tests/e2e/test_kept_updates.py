"""Updates that a real server keeps, also through a crash, and its rounds computed again from them."""

import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flserver.aggregation import FedAvg
from flserver.cli.main import run_cli
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, NeuralNet, Peer

MEASURED = ("loss", "accuracy")
Join = Callable[..., list[Peer]]
DECIDED = "SELECT client_id, decision, kept IS NULL FROM v1_updates WHERE answers_round = ? ORDER BY update_id"


def net(value: int) -> NeuralNet:
    """Numbers whose mean has to be rounded, each different from its neighbour's."""
    module = NeuralNet()
    with torch.no_grad():
        for parameter in module.parameters():
            numbers = torch.arange(parameter.numel(), dtype=torch.float64) * (2**21 + value) % 2**24
            parameter.copy_(numbers.view(parameter.shape) / 2**26)
    return module


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_a_server_keeps_makes_its_rounds_again(
    tmp_path: Path, start: Start, join: Join, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--num-rounds", "3", "--min-clients", "3", "--min-updates", "2", "--run-name", "night", *FAST)
    server = start("--keep-updates", "--keep-updates-rounds", "2", *options)
    a, b, c = join(server, "a", "b", "c")
    server.wait_for_line("accepted updates are kept beside the checkpoints .* can try to tell what a client trained on")
    ((run_id,),) = server.sql("SELECT run_id FROM v1_runs")
    kept = tmp_path / "runs.sqlite.checkpoints" / run_id / "updates"
    for peer, model in ((a, net(1)), (b, net(12).double()), (c, net(123))):  # b's are converted
        peer.model()
        if peer is c:
            with torch.no_grad():
                model.fc1.bias.fill_(torch.nan)
        peer.upload(model)
    for peer, value in ((a, 2), (b, 23)):
        peer.model()
        peer.upload(net(value))
    c.model()
    assert server.sql(DECIDED, 1) == [("a", "accepted", 0), ("b", "accepted", 0), ("c", "rejected", 1)]
    assert len(files(kept / "round-000001")) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in files(kept)} == {0o640}
    assert len(files(kept / "round-000002")) == 2, "of a round that is not made yet"
    server.kill()

    server = start("--resume")
    a, b, c = join(server, "a", "b", "c")
    server.wait_for_line("resum")
    models = [peer.model() for peer in (a, b, c)]
    assert not (kept / "round-000002").exists(), "what the crash left is gone"
    for peer, value in ((a, 3), (b, 34), (c, 345)):
        peer.upload(net(value))
    for peer in (a, b, c):
        peer.model()
        peer.upload(net(ord(peer.client_id)))  # type: ignore[call-overload]
    for peer in (a, b, c):
        peer.finished()
    assert server.exit_code() == 0
    del models
    assert sorted(path.name for path in kept.iterdir()) == ["round-000002", "round-000003"]
    assert [row for row in server.sql(DECIDED, 1) if not row[2]] == [], "deleted, and that is on record"
    acts = server.sql("SELECT kind, detail ->> 'rounds' FROM v1_operator_events WHERE kind = 'keep-updates'")
    assert acts == [("keep-updates", 2)] * 2

    assert run_cli(["--db", str(server.db), "replay", "night"]) == 0
    assert run_cli(["--db", str(server.db), "verify"]) == 0
    out = tmp_path / "without.safetensors"
    command = ["--db", str(server.db), "replay", "night", "--without", "b", "--round", "2", "--out", str(out)]
    capsys.readouterr()
    assert run_cli([*command, "--eval-data", "digits"]) == 0
    measured = capsys.readouterr().out.splitlines()[2:4]
    assert [re.sub(r"\d+\.\d{3}", "N", line) for line in measured] == [f"{n}: N on record, N now" for n in MEASURED]
    without = FedAvg()
    without.begin(net(0).state_dict())
    for value in (3, 345):
        without.add({name: tensor.detach() for name, tensor in net(value).state_dict().items()}, 100)
    wanted = without.finish()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in load_file(out).items())


def test_without_the_option_nothing_is_kept(tmp_path: Path, start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", *FAST)
    (a,) = join(server, "a")
    a.answer()
    a.finished()
    assert server.exit_code() == 0
    assert "kept" not in server.log
    assert list(tmp_path.glob("runs.sqlite.checkpoints/*/updates")) == []
    assert server.sql("SELECT kept FROM v1_updates") == [(None,)]
    assert run_cli(["--db", str(server.db), "replay", server.sql("SELECT run_id FROM v1_runs")[0][0]]) == 2
