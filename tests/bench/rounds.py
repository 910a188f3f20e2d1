"""A server and the floor in turn, each as a process with the same trainers: seconds a round, memory, exit codes."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_SECONDS = 120.0  # until a server listens: torch takes a while to import
RUN_SECONDS = 240.0  # a whole run
END_SECONDS = 240.0  # until a server has ended whose trainers have


class BenchError(Exception):
    """A run did not go as it must; the message has the log of what failed."""


@dataclass(frozen=True)
class Shape:
    """``clients`` trainers with a model of ``size`` MB (a key of ``models.FACTORIES``), for ``rounds`` rounds."""

    clients: int
    size: str
    rounds: int

    @classmethod
    def parse(cls, text: str, rounds: int) -> "Shape":
        """``8x45``. Raises ValueError."""
        clients, size = text.split("x")
        return cls(int(clients), size, rounds)

    @property
    def model(self) -> str:
        return f"tests.bench.models:mb_{self.size.replace('.', '_')}"


@dataclass(frozen=True)
class Run:
    """One server's run. ``seconds`` is the median of its rounds without the first and the last."""

    seconds: float
    peak_rss_mb: int
    exit_code: int


class Child:
    """A server process that says on standard error where it listens."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self._lines: list[str] = []
        self._port: int | None = None
        self._listens = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self._lines.append(line)
                if self._port is None and (match := re.search(r"listening for trainers on .*:(\d+)$", line)):
                    self._port = int(match[1])
                    self._listens.set()
        self._listens.set()

    @property
    def log(self) -> str:
        return "".join(self._lines[-40:])

    def port(self) -> int:
        """Where it listens. Raises BenchError where it ends, or takes too long, before it does."""
        self._listens.wait(START_SECONDS)
        if self._port is None:
            raise BenchError(f"it does not listen:\n{self.log}")
        return self._port

    def end(self) -> tuple[int, int]:
        """Wait until it ends, or is killed for taking too long. Returns its exit code and its peak memory (MB)."""
        patience = threading.Timer(END_SECONDS, os.kill, (self._process.pid, signal.SIGKILL))
        patience.start()
        # Linux counts what the parent held at the fork as the child's: this process must stay without torch.
        _, status, usage = os.wait4(self._process.pid, 0)
        patience.cancel()
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return self._process.returncode, usage.ru_maxrss // 1024

    def close(self) -> None:
        """End it if it has not ended."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        self._reader.join()


def environment() -> dict[str, str]:
    """One thread for arithmetic, and no settings from outside."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLSERVER_")}
    return kept | {"OMP_NUM_THREADS": "1"}


def floor_command(shape: Shape, folder: Path) -> list[str]:
    command = [sys.executable, "-m", "tests.bench.floor", "--clients", str(shape.clients), "--model", shape.size]
    return [*command, "--rounds", str(shape.rounds), "--dir", str(folder)]


def server_command(shape: Shape, folder: Path) -> list[str]:
    command = [sys.executable, "-m", "flserver", "--db", str(folder / "bench.sqlite"), "--model", shape.model]
    command += ["--num-rounds", str(shape.rounds), "--min-clients", str(shape.clients), "--time-to-wait", "0"]
    return [*command, "--server-port", "0", "--metrics-port", "0"]


def run(command: list[str], shape: Shape) -> Run:
    """One run of a server with the shape's trainers. Raises BenchError."""
    child = Child(command)
    try:
        trainers = [sys.executable, "-m", "tests.bench.trainers", "--port", str(child.port())]
        trainers += ["--clients", str(shape.clients), "--model", shape.size]
        try:
            done = subprocess.run(
                trainers, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=RUN_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"the run is not over after {RUN_SECONDS:g} s. The server said:\n{child.log}") from error
        if done.returncode != 0:
            raise BenchError(f"the trainers failed:\n{done.stderr}\nThe server said:\n{child.log}")
        exit_code, peak_rss_mb = child.end()
    finally:
        child.close()
    seconds = json.loads(done.stdout)
    if len(seconds) != shape.rounds:
        raise BenchError(f"{len(seconds)} rounds instead of {shape.rounds}:\n{child.log}")
    return Run(statistics.median(seconds[1:-1] or seconds), peak_rss_mb, exit_code)


def compare(shape: Shape, pairs: int, directory: Path) -> dict[str, object]:
    """``pairs`` times the floor and then the server, both writing below ``directory``. Raises BenchError."""
    floors: list[Run] = []
    servers: list[Run] = []
    for _ in range(pairs):
        for runs, command in ((floors, floor_command), (servers, server_command)):
            with tempfile.TemporaryDirectory(dir=directory, prefix="bench-") as folder:
                runs.append(run(command(shape, Path(folder)), shape))
    return {
        "clients": shape.clients,
        "mb": float(shape.size),
        "rounds": shape.rounds,
        "pairs": pairs,
        "floor_seconds": round(statistics.median(one.seconds for one in floors), 4),
        "server_seconds": round(statistics.median(one.seconds for one in servers), 4),
        # Within each turn: what else the machine does changes over the minutes that a benchmark takes.
        "ratio": round(statistics.median(s.seconds / f.seconds for f, s in zip(floors, servers, strict=True)), 2),
        "floor_peak_rss_mb": max(one.peak_rss_mb for one in floors),
        "server_peak_rss_mb": max(one.peak_rss_mb for one in servers),
        "floor_exit_codes": [one.exit_code for one in floors],
        "server_exit_codes": [one.exit_code for one in servers],
    }
