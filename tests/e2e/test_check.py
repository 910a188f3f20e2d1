"""A check beside real servers: of a run that was killed, and of one that runs."""

import json
import os
import subprocess
from pathlib import Path

from flserver.store.sqlite import revision_of
from tests import warm
from tests.e2e.conftest import Start
from tests.e2e.harness import free_port
from tests.old_database import old_database

OWN_CODE = """
from torch import nn

class Net(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)

def of_percent(model, round):
    return {"accuracy": 97.0}

def diverged(model, round):
    return {"loss": float("inf"), "accuracy": 0.25}
"""


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("FLSERVER_", "PYTHONDONTWRITE"))}
    environment["OMP_NUM_THREADS"] = "1"
    return warm.run(["-m", "flserver", "check", *arguments], cwd=folder, env=environment)


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if not path.name.endswith(("-wal", "-shm"))}


def test_a_killed_run_is_checked_resumed_and_cannot_be_started_twice(start: Start, tmp_path: Path) -> None:
    port = free_port()
    server = start("--server-port", str(port), "--num-rounds", "3")
    server.wait_for_line("round 0/3 committed")
    server.kill()
    before, record = files(tmp_path), server.sql("SELECT COUNT(*) FROM v1_events")
    done = check(tmp_path, "--resume", "--num-rounds", "5", "--metrics-port", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "goes on, 0 of 5 rounds are committed; changed: " in done.stdout
    assert "--num-rounds 5" in done.stdout
    assert f"trainers: 127.0.0.1:{port}" in done.stdout, "where it was started"
    assert "for 5 rounds to come" in done.stdout
    assert (files(tmp_path), server.sql("SELECT COUNT(*) FROM v1_events")) == (before, record)
    resumed = start("--resume", "--server-port", str(port))
    resumed.wait_for_line("state: joining")
    done = check(tmp_path, "--resume", "--server-port", str(port), "--metrics-port", "0")
    assert done.returncode == 2
    locked, in_use = done.stderr.splitlines()
    assert locked.startswith("flserver: another flserver has runs.sqlite open: process ")
    assert "Address already in use" in in_use
    assert resumed.process.poll() is None


def test_a_start_upgrades_an_old_database_and_puts_that_on_record(start: Start, tmp_path: Path) -> None:
    old_database(tmp_path / "runs.sqlite")
    server = start("--num-rounds", "1")
    server.wait_for_line("round 0/1 committed")
    ((detail,),) = server.sql("SELECT detail FROM v1_operator_events WHERE kind = 'upgrade'")
    assert json.loads(detail)["before"] == revision_of(Path(json.loads(detail)["copy"])) == "0001"
    assert server.terminate() == 3


def test_the_initial_model_is_measured_as_a_start_does_and_the_operators_modules_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "lab.py").write_text(OWN_CODE)
    own = ("--model", "lab:Net", "--server-port", "0", "--metrics-port", "0", "--evaluate")
    done = check(tmp_path, *own, "lab:diverged")
    assert done.returncode == 0
    assert "evaluation: lab:diverged; of the initial model: loss inf, accuracy 0.25" in done.stdout
    (warning,) = done.stderr.splitlines()
    assert warning.startswith("flserver: round 0: --evaluate lab:diverged gave loss = ")
    done = check(tmp_path, *own, "lab:of_percent")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "--evaluate lab:of_percent" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["lab.py"]
