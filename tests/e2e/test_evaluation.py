"""What an operator's function gives of the models: numbers of any kind, what diverged, what can be no accuracy."""

import math
from pathlib import Path

from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer

FUNCTIONS = """
import numpy
import torch

def scalars(model, round):
    correct = torch.tensor([True, True, True, False]).float()
    return {"loss": numpy.float32(0.5), "accuracy": correct.mean(), "rounds": numpy.array(round)}

def diverges(model, round):
    if round == 0:
        return {"loss": torch.tensor(float("nan")), "accuracy": 0.1, "norm": numpy.float64("inf")}
    if round == 2:
        raise RuntimeError("no data to measure it on")
    return {"loss": 2.5, "accuracy": 0.1}

def percent(model, round):
    return {"loss": 0.5, "accuracy": torch.tensor(93.0)}

def percent_later(model, round):
    return {"loss": 0.5, "accuracy": 0.1 if round == 0 else 93.0}
"""
METRICS = "SELECT round, name, value, note FROM v1_round_metrics WHERE source = 'evaluate' ORDER BY round, name"


def test_a_tensor_without_dimensions_and_a_scalar_of_numpys_are_numbers(start: Start, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    server = start("--num-rounds", "1", "--evaluate", "mine:scalars", *FAST)
    with Peer(server, 1).join() as peer:
        peer.answer()
        peer.finished()
    assert server.exit_code() == 0
    assert server.sql("SELECT round, loss, accuracy FROM v1_rounds") == [(0, 0.5, 0.75), (1, 0.5, 0.75)]
    expected = [(n, *of) for n in (0, 1) for of in (("accuracy", 0.75, None), ("loss", 0.5, None), ("rounds", n, None))]
    assert server.sql(METRICS) == expected
    assert "WARNING" not in server.log


def test_diverged_and_not_measured_differ_in_sql_metrics_and_log_also_after_a_restart(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    server = start("--num-rounds", "9", "--evaluate", "mine:diverges", "--keep-checkpoints", "1", *FAST)
    server.wait_for_line("round 0/9 committed .* the initial model, loss NaN, accuracy 0.100, round-")
    assert math.isnan(server.metrics()["flserver_model_loss"])
    server.kill()
    server = start("--resume", *FAST)
    with Peer(server, 1).join() as peer:
        model = peer.model()
        assert math.isnan(server.metrics()["flserver_model_loss"]), "as SQL says it"
        peer.upload(model)
        server.wait_for_line("round 1/9 committed .* 1 update, loss 2.500, accuracy 0.100, round-")
        peer.answer()
        server.wait_for_line("round 2/9 committed .* 1 update, round-")
        assert "flserver_model_loss" not in server.metrics(), "it was not measured"
        assert server.terminate() == 3
    assert any("round 2: --evaluate mine:diverges failed" in line for line in server.lines)
    assert server.sql(METRICS) == [
        (0, "accuracy", 0.1, None),
        (0, "loss", None, "NaN"),
        (0, "norm", None, "Infinity"),
        (1, "accuracy", 0.1, None),
        (1, "loss", 2.5, None),
    ]
    committed = "SELECT round, loss, accuracy, checkpoint_deleted_at IS NULL FROM v1_rounds WHERE status = 'committed'"
    # Of two with the same accuracy the one with a loss that can be compared is the best.
    assert server.sql(committed) == [(0, None, 0.1, 0), (1, 2.5, 0.1, 1), (2, None, None, 1)]


def test_an_accuracy_over_1_is_refused_before_anybody_trains_and_the_run_goes_on_when_it_is_put_right(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    server = start("--num-rounds", "1", "--evaluate", "mine:percent", *FAST)
    assert server.exit_code() == 2
    wrong = "--evaluate mine:percent gave accuracy = 93, which must be from 0 to 1: divide a percentage by 100"
    assert any(wrong in line for line in server.lines)
    assert server.sql("SELECT status FROM v1_runs") == [("failed",)]
    assert server.sql("SELECT round, status FROM v1_rounds") == [(0, "aborted")]

    (tmp_path / "mine.py").write_text(FUNCTIONS.replace("torch.tensor(93.0)", "torch.tensor(93.0) / 100"))
    server = start("--resume", *FAST)
    with Peer(server, 1).join() as peer:
        peer.answer()
        peer.finished()
    assert server.exit_code() == 0
    committed = server.sql("SELECT round, attempt, accuracy FROM v1_rounds WHERE status = 'committed'")
    assert [(number, attempt, round(accuracy, 6)) for number, attempt, accuracy in committed] == [
        (0, 2, 0.93),
        (1, 1, 0.93),
    ]


def test_an_accuracy_over_1_that_comes_later_costs_no_round(start: Start, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    server = start("--num-rounds", "1", "--evaluate", "mine:percent_later", *FAST)
    with Peer(server, 1).join() as peer:
        peer.answer()
        peer.finished()
    assert server.exit_code() == 0
    assert server.sql("SELECT round, loss, accuracy FROM v1_rounds") == [(0, 0.5, 0.1), (1, 0.5, None)]
    assert any("round 1: --evaluate mine:percent_later gave accuracy = 93" in line for line in server.lines)
