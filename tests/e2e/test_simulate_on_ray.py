"""A simulated fleet whose parts are actors of a real Ray cluster: what the record has of it, and how it ends."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import IO

import pytest

from tests import warm
from tests.e2e.harness import TESTS
from tests.patience import PATIENCE, eventually
from tests.ray_cluster import RayCluster
from tests.warm import Started

pytestmark = [pytest.mark.ray, pytest.mark.fleet]


def simulate(folder: Path, cluster: RayCluster, *arguments: object, stderr: int | None = None) -> Started:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("FLSERVER_", "FLCLIENT_"))}
    env |= {"PYTHONPATH": str(TESTS.parent), "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1"} | cluster.env
    command = ["-m", "flserver", "simulate", "--ray-address", cluster.address, "--processes", "2", *map(str, arguments)]
    return warm.start(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr)


def processes_of_parts(said: IO[str]) -> list[int]:
    """Once the first round has ended."""
    found = []
    for line in said:
        if line.startswith("part "):
            found.append(int(line.split("(process ")[1].split()[0]))
        if line.startswith("round 1:"):
            return found
    raise AssertionError("no round has ended")


def gone(*pids: int) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_it_is_as_scripted_by_its_own_account_and_by_the_record(tmp_path: Path, ray_cluster: RayCluster) -> None:
    fleet = ("--trainers", 12, "--rounds", 2, "--drop-out", 0.25, "--lie", 0.5, "--seed", 5, "--json")
    process = simulate(tmp_path, ray_cluster, *fleet, stderr=subprocess.DEVNULL)
    said, _ = process.communicate(PATIENCE)
    assert process.returncode == 0, said
    found = json.loads(said)
    assert found["differs"] == []
    assert [one["number"] for one in found["rounds"]] == [1, 2]
    assert all(one["seconds"] > 0 and one["updates"] for one in found["rounds"])
    assert {row["what"]: row["scripted"] for row in found["what"]} == {
        row["what"]: row["recorded"] for row in found["what"]
    }


def test_a_part_whose_process_is_killed_is_named_with_its_trainers_and_ends_all(
    tmp_path: Path, ray_cluster: RayCluster
) -> None:
    fleet = ("--trainers", 6, "--rounds", 100_000)
    process = simulate(tmp_path, ray_cluster, *fleet, "--", "--keep-checkpoints", 1, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        first, second = processes_of_parts(process.stdout)
        (server,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[-1:]
        os.kill(second, signal.SIGKILL)
        assert process.wait(PATIENCE) == 1
        said = process.stderr.read()
    assert "part 2 of 2 of the fleet, 3 trainers (2, 4, 6), which 127.0.0.1 plays, has failed: its process died" in said
    eventually(lambda: gone(first, second, int(server)))


def test_ctrl_c_ends_the_parts_too(tmp_path: Path, ray_cluster: RayCluster) -> None:
    fleet = ("--trainers", 4, "--rounds", 100_000, "--", "--keep-checkpoints", 1)
    process = simulate(tmp_path, ray_cluster, *fleet, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    with process.stdout:
        parts = processes_of_parts(process.stdout)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 3
    assert len(parts) == 2
    eventually(lambda: gone(*parts))
