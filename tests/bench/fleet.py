"""``ops/bench --fleet``: the trainers of ``flserver simulate``, on real sockets in processes of their own."""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.driver import (
    ROOT,
    RUN_SECONDS,
    BenchError,
    Child,
    Shape,
    checkpoint_bytes,
    environment,
    floor_command,
    folder_in,
)
from tests.bench.report import Figure

ROUNDS = 6
SCRIPT = ("--drop-out", "0.05", "--lag", "0.05", "--lag-seconds", "0.5", "--lie", "0.03")


def against_the_floor(
    trainers: int, directory: Path, rounds: int | None, turns: int | None, nodes: Sequence[str] = ()
) -> list[Figure]:
    """Seconds a round of the server over those of the floor, with the same fleet; and what one costs that drops out,
    lags and lies, for which there is no floor. The server has ``nodes``, where these options say so. Raises
    BenchError."""
    shape = Shape(trainers, "0.03", rounds or ROUNDS)
    own = ("--", *nodes) if nodes else ()
    pairs = [(_floor(shape, directory), _server(shape, directory, *own)) for _ in range(turns or 3)]
    server = statistics.median(_seconds(server) for _, server in pairs)
    scripted = _server(shape, directory, *SCRIPT, *own)
    took, updates = sum(one["seconds"] for one in scripted["rounds"]), sum(one["updates"] for one in scripted["rounds"])
    return [
        Figure(
            f"a round of {trainers} simulated trainers, server / durable floor",
            statistics.median(_seconds(server) / _seconds(floor) for floor, server in pairs),
            "×",
        ),
        Figure("a round of the floor", 1000 * statistics.median(_seconds(floor) for floor, _ in pairs), "ms"),
        Figure("a round of the server", 1000 * server, "ms"),
        Figure("updates a second", trainers / server),
        Figure("a round in which some drop out, lag up to 0.5 s and lie", 1000 * took / len(scripted["rounds"]), "ms"),
        Figure("updates a second of that", updates / took),
    ]


def _seconds(found: dict[str, Any]) -> float:
    """The median of the rounds, where there are enough without the first and the last."""
    rounds = [one["seconds"] for one in found["rounds"]]
    return statistics.median(rounds[1:-1] or rounds)


def _floor(shape: Shape, directory: Path) -> dict[str, Any]:
    with folder_in(directory) as folder:
        child = Child(floor_command(shape, folder))
        try:
            found = _simulate(shape, "--server-port", str(child.port()))
            child.end()
        finally:
            child.close()
    return found


def _server(shape: Shape, directory: Path, *script: str) -> dict[str, Any]:
    with folder_in(directory) as folder:
        found = _simulate(shape, "--model", shape.model, "--db", str(folder / "fleet.sqlite"), *script)
        assert checkpoint_bytes(folder)
    return found


def _simulate(shape: Shape, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "flserver", "simulate", "--trainers", str(shape.clients), "--json"]
    command += ["--rounds", str(shape.rounds), *options]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=RUN_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"the fleet is not done after {RUN_SECONDS:g} s") from error
    if done.returncode:
        raise BenchError(f"the fleet failed:\n{done.stdout}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    if len(found["rounds"]) != shape.rounds:
        raise BenchError(f"{len(found['rounds'])} rounds instead of {shape.rounds}:\n{done.stderr}")
    return found
