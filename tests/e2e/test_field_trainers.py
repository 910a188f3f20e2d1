"""The trainers of the field, unchanged, against the real server: what the project is for."""

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import warm
from tests.e2e.conftest import Start
from tests.e2e.harness import TESTS, ServerProcess
from tests.e2e.trainers import trainers
from tests.fldata import write_fldata
from tests.patience import DEADLINE

OLD_PYTHON = os.environ.get("FLSERVER_OLD_TORCH", "/usr/bin/python3")


def checkpoint(server: ServerProcess, round: int) -> Path:
    (path,) = server.sql("SELECT checkpoint FROM v1_rounds WHERE round = ? AND status = 'committed'", round)[0]
    return server.db.with_name("runs.sqlite.checkpoints") / path


def test_three_unchanged_trainers_learn_and_the_model_is_the_documents_bit_for_bit(
    start: Start, tmp_path: Path
) -> None:
    ids = (1, 2, 10)
    data = write_fldata(tmp_path / "FLdata", ids)
    evaluate = ("--eval-data", "fldata", "--data-dir", str(data))
    server = start("--num-rounds", "10", "--min-clients", "3", "--time-to-wait", "0.3", *evaluate)
    with trainers(server, data, *ids):
        assert server.exit_code() == 0
    assert server.sql("SELECT status, rounds_committed FROM v1_runs") == [("completed", 10)]
    curve = [accuracy for (accuracy,) in server.sql("SELECT accuracy FROM v1_rounds ORDER BY round")]
    assert curve[0] < 0.3
    assert curve[10] > 0.85

    expected = tmp_path / "expected.safetensors"
    asked = [TESTS / "reference.py", data, checkpoint(server, 0), 10, expected, *ids]
    done = warm.run(list(map(str, asked)), cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    got, independent = load_file(checkpoint(server, 10)), load_file(expected)
    for name, tensor in independent.items():
        assert torch.equal(got[name], tensor), name


@pytest.mark.old_torch
def test_an_old_torch_reads_what_we_write_and_we_read_what_it_writes(start: Start, tmp_path: Path) -> None:
    data = write_fldata(tmp_path / "FLdata", (1, 2), samples=100)
    server = start("--num-rounds", "2", "--min-clients", "2", "--time-to-wait", "0.3")
    with trainers(server, data, 1, python=OLD_PYTHON), trainers(server, data, 2):
        assert server.exit_code() == 0
    accepted = "SELECT client_id, COUNT(*) FROM v1_updates WHERE decision = 'accepted' GROUP BY 1 ORDER BY 1"
    assert server.sql(accepted) == [("1", 2), ("2", 2)]


def test_a_trainer_that_dies_while_training_costs_itself_only(start: Start, tmp_path: Path) -> None:
    data = write_fldata(tmp_path / "FLdata", (1, 2, 3), samples=100)
    server = start("--num-rounds", "3", "--min-clients", "3", "--time-to-wait", "0.3")
    with trainers(server, data, 1, 2):
        with pytest.raises(AssertionError), trainers(server, data, 3, die_at_round=2):
            pass
        assert server.exit_code() == 0
    rows = server.sql("SELECT round, updates_accepted FROM v1_rounds WHERE round > 0 ORDER BY round")
    assert rows == [(1, 3), (2, 2), (3, 2)]
    assert server.sql("SELECT participation FROM v1_client_rounds WHERE client_id = '3' ORDER BY round") == [
        ("answered",),
        ("dropped",),
    ]


def test_a_frozen_trainer_costs_the_others_one_deadline(start: Start, tmp_path: Path) -> None:
    data = write_fldata(tmp_path / "FLdata", (1, 2, 3), samples=100)
    server = start("--num-rounds", "3", "--min-clients", "3", "--time-to-wait", "0.3", "--round-timeout", str(DEADLINE))
    with ExitStack() as stack:
        frozen = [str(TESTS / "field_trainer.py"), "--client-id", "3", "--data", str(data)]
        frozen += ["--server-port", str(server.port), "--freeze-at-round", "1"]
        process = warm.start(frozen, cwd=tmp_path, env=os.environ, stdout=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.kill)
        stack.enter_context(trainers(server, data, 1, 2))
        assert server.exit_code() == 0
    rows = server.sql("SELECT round, participation FROM v1_client_rounds WHERE client_id = '3' ORDER BY round")
    assert rows == [(1, "timed_out"), (2, "not_sent"), (3, "not_sent")]
    assert server.sql("SELECT updates_accepted FROM v1_rounds WHERE round > 0") == [(2,), (2,), (2,)]
