"""A resumed run listens where it was started: trainers that wait to reconnect know no other place."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests import warm
from tests.e2e.conftest import Start
from tests.e2e.harness import TESTS, Peer, free_port, sql
from tests.patience import PATIENCE
from tests.warm import Started


@pytest.fixture
def killed(start: Start) -> tuple[Path, int]:
    """The database of a server that was killed, and the port that it was started with."""
    port = free_port()
    server = start("--server-port", str(port), "--num-rounds", "3")
    server.wait_for_line("round 0/3 committed")
    assert server.port == port
    server.kill()
    return server.db, port


def environment() -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith("FLSERVER_")}
    return own | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)}


@contextlib.contextmanager
def resumed(db: Path, *arguments: str) -> Iterator[Started]:
    """``flserver --resume`` with no word about where to listen but ``arguments``."""
    command = ["-m", "flserver", "--db", str(db), "--resume", "--metrics-port", "0", *arguments]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with warm.start(command, cwd=db.parent, env=environment(), **streams) as process:
        try:
            yield process
        finally:
            process.kill()


def port_of(process: Started) -> int:
    """Where it says that it listens."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if match := re.search(r"listening for trainers on 127\.0\.0\.1:(\d+)$", line):
            return int(match[1])
    raise AssertionError("".join(lines))


def stop(process: Started, port: int) -> None:
    with Peer(port, "a") as peer:
        peer.join()  # from here on SIGTERM is something that the server waits for
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3, told


def test_a_bare_resume_listens_on_the_port_of_the_start(killed: tuple[Path, int]) -> None:
    db, port = killed
    with resumed(db) as process:
        assert port_of(process) == port
        stop(process, port)
    assert sql(db, "SELECT status FROM v1_runs") == [("interrupted",)]
    (overrides,) = sql(db, "SELECT overrides FROM v1_processes ORDER BY process_id")[-1]
    assert json.loads(overrides) == {"metrics_port": 0}


def test_another_port_is_taken_and_named_in_the_record(killed: tuple[Path, int]) -> None:
    db, _ = killed
    other = free_port()
    with resumed(db, "--server-port", str(other)) as process:
        assert port_of(process) == other
        stop(process, other)
    (overrides,) = sql(db, "SELECT overrides FROM v1_processes ORDER BY process_id")[-1]
    assert json.loads(overrides) == {"metrics_port": 0, "server_port": other}


def test_the_port_of_the_start_is_in_use(killed: tuple[Path, int]) -> None:
    db, port = killed
    before = sql(db, "SELECT COUNT(*) FROM events")
    with socket.create_server(("127.0.0.1", port)), resumed(db) as process:
        told, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, told.count("\n")) == (2, 1)
    assert f"--host 127.0.0.1 --server-port {port}: Address already in use" in told
    assert sql(db, "SELECT COUNT(*) FROM events") == before


def test_a_run_goes_on_without_the_weights_that_it_began_with(start: Start, tmp_path: Path) -> None:
    """They are in the checkpoint of its round 0; other ones are refused, as ever."""
    weights, other = tmp_path / "weights.safetensors", tmp_path / "other.safetensors"
    save_file({"fc1.weight": torch.full((10, 784), 0.5), "fc1.bias": torch.zeros(10)}, weights)
    shutil.copy(weights, other)
    server = start("--initial-weights", str(weights), "--server-port", "0", "--num-rounds", "3")
    server.wait_for_line("round 0/3 committed")
    server.kill()
    weights.unlink()
    command = ["-m", "flserver", "--db", str(server.db), "check", "--resume"]
    for given, code in (([], 0), (["--initial-weights", str(weights)], 0), (["--initial-weights", str(other)], 2)):
        told = warm.run([*command, *given], cwd=tmp_path, env=environment())
        assert told.returncode == code, told.stdout + told.stderr
    with resumed(server.db, "--time-to-wait", "0") as process, Peer(port_of(process), "a").join() as peer:
        model = peer.model()
        assert bool((model.fc1.weight == 0.5).all())  # type: ignore[union-attr]
