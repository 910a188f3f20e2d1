"""A server or the floor as a process, with trainers in another: the seconds of its rounds and its memory."""

import contextlib
import json
import os
import re
import resource
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.bench.answers import FIRST_ID, Outcome

ROOT = Path(__file__).parents[2]
START_SECONDS = 120.0  # until a server listens, and is ready: torch takes a while to import
RUN_SECONDS = 240.0  # a whole run
END_SECONDS = 240.0  # until a server has ended whose trainers have
USUAL_CLIENTS = 1000  # more need other limits on connections than the default ones


class BenchError(Exception):
    """A run did not go as it must; the message has the log of what failed."""


class Refused(BenchError):
    """A trainer was not let in; ``registered`` were."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"a trainer was refused after {outcome.registered} had registered: {outcome.refusal}")
        self.registered = outcome.registered


@dataclass(frozen=True)
class Shape:
    """``clients`` trainers with a model of ``size`` MB (a key of ``models.FACTORIES``), for ``rounds`` rounds; as a
    ``crowd`` they share a thread. ``processes`` share them out."""

    clients: int
    size: str
    rounds: int
    crowd: bool = False
    processes: int = 1

    def of_processes(self) -> list[int]:
        """How many trainers each process has; as many as the next, or one more."""
        processes = min(self.processes, self.clients)
        least, more = divmod(self.clients, processes)
        return [least + (number < more) for number in range(processes)]

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
    """One server's run: when (seconds, monotonic) the last trainer had each model whole, and in the end <FINISHED>; the
    most memory (bytes) that the server had."""

    moments: list[float]
    peak: int

    @property
    def rounds(self) -> list[float]:
        """The seconds of each round."""
        return [after - before for before, after in pairwise(self.moments)]

    @property
    def seconds(self) -> float:
        """The median of the rounds, where there are enough without the first and the last."""
        return statistics.median(self.rounds[1:-1] or self.rounds)


Watch = Callable[[int], AbstractContextManager[object]]
"""Something that goes on beside a run; it is given the server's process id."""


class Child:
    """A server process that says on standard error where it listens."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        self._lines: deque[str] = deque(maxlen=40)
        self._found: dict[str, re.Match[str]] = {}
        self._ended = False
        self._news = threading.Condition()  # guards the three above
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                with self._news:
                    self._lines.append(line)
                    for pattern in PATTERNS:
                        if pattern not in self._found and (match := re.search(pattern, line)):
                            self._found[pattern] = match
                            self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def log(self) -> str:
        with self._news:
            return "".join(self._lines)

    def said(self, pattern: str) -> re.Match[str]:
        """Wait for a line (one of ``PATTERNS``). Raises BenchError where it ends, or takes too long, before that."""
        with self._news:
            self._news.wait_for(lambda: pattern in self._found or self._ended, START_SECONDS)
            if found := self._found.get(pattern):
                return found
        raise BenchError(f"it does not say “{pattern}”:\n{self.log}")

    def port(self) -> int:
        """Where it listens. Raises BenchError."""
        return int(self.said(LISTENS)[1])

    def end(self, expected: int = 0) -> int:
        """Wait until it ends, or is killed for taking too long. Returns its peak memory in bytes. Raises BenchError
        where its exit code is another."""
        patience = threading.Timer(END_SECONDS, os.kill, (self.pid, signal.SIGKILL))
        patience.start()
        # Linux counts what the parent held at the fork as the child's: this process must stay without torch.
        _, status, usage = os.wait4(self.pid, 0)
        patience.cancel()
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._process.returncode != expected:
            raise BenchError(f"it ended with {self._process.returncode}:\n{self.log}")
        return usage.ru_maxrss * 1024

    def stop(self) -> None:
        """Let it end as interrupted. Raises BenchError."""
        self._process.terminate()
        self.end(expected=3)

    def close(self) -> None:
        """End it if it has not ended."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        self._reader.join()


LISTENS = r"listening for trainers on .*:(\d+)$"
JOINING = r"state: joining"
ROUND_0 = r"round 0/\d+ committed"
PATTERNS = (LISTENS, JOINING, ROUND_0)


def environment() -> dict[str, str]:
    """One thread for arithmetic, and no settings from outside."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLSERVER_")}
    return kept | {"OMP_NUM_THREADS": "1"}


def allow_descriptors() -> None:
    """Let this process and those that it starts have as many descriptors as the system lets it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def floor_command(shape: Shape, folder: Path) -> list[str]:
    command = [sys.executable, "-m", "tests.bench.floor", "--clients", str(shape.clients), "--model", shape.size]
    return [*command, "--rounds", str(shape.rounds), "--dir", str(folder)]


def server_command(shape: Shape, folder: Path, *options: str, db: str | None = None) -> list[str]:
    """The server with its default settings, but for limits on connections that so many clients need. Its record is at
    ``db``, or in the folder."""
    command = [sys.executable, "-m", "flserver", "--db", db or str(database_in(folder)), "--model", shape.model]
    command += ["--checkpoint-dir", str(folder / "checkpoints")] if db else []
    command += ["--num-rounds", str(shape.rounds), "--min-clients", str(shape.clients), "--time-to-wait", "0"]
    if shape.clients > USUAL_CLIENTS:
        connections = str(2 * shape.clients + 100)
        command += ["--max-connections", connections, "--max-connections-per-address", connections]
    return [*command, "--server-port", "0", "--metrics-port", "0", *options]


def database_in(folder: Path) -> Path:
    return folder / "bench.sqlite"


def checkpoint_bytes(folder: Path) -> int:
    """What a model takes in a file, after a server's run."""
    return max(path.stat().st_size for path in folder.rglob("*.safetensors"))


@contextlib.contextmanager
def folder_in(directory: Path) -> Iterator[Path]:
    """A folder for one run, gone afterwards."""
    with tempfile.TemporaryDirectory(dir=directory, prefix="bench-") as folder:
        yield Path(folder)


def run(command: list[str], shape: Shape, *, hostile: int = 0, watch: Watch | None = None) -> Run:
    """One run of a server with the shape's trainers. Raises BenchError, Refused."""
    child = Child(command)
    try:
        port = child.port()
        with watch(child.pid) if watch else contextlib.nullcontext():
            outcome = with_trainers(port, shape, hostile, lambda: child.log)
        peak = child.end()
    finally:
        child.close()
    if len(outcome.moments) != shape.rounds + 1:
        raise BenchError(f"{len(outcome.moments) - 1} rounds instead of {shape.rounds}:\n{child.log}")
    return Run(outcome.moments, peak)


def run_python(program: list[str], seconds: float) -> "subprocess.CompletedProcess[str]":
    """What Python does with these arguments, to its end. Raises subprocess.TimeoutExpired.

    Nobody measures that process, so tests put one here that is forked.
    """
    command = [sys.executable, *program]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=seconds)


def with_trainers(port: int, shape: Shape, hostile: int, log: Callable[[], str]) -> Outcome:
    """What becomes of the trainers of a server that listens. Raises BenchError, Refused."""
    shares = shape.of_processes()
    firsts = [FIRST_ID + sum(shares[:number]) for number in range(len(shares))]
    liars = [hostile] + [0] * (len(shares) - 1)
    with ThreadPoolExecutor(len(shares)) as side_by_side:
        outcomes = side_by_side.map(partial(_trainers, port, shape, log), firsts, shares, liars)
        outcome = Outcome.of_all(list(outcomes))
    if outcome.refusal is not None:
        raise Refused(outcome)
    if outcome.finished != shape.clients:
        raise BenchError(f"the trainers failed: {outcome.failure}\n{outcome.finished} finished.\n{log()}")
    return outcome


def _trainers(port: int, shape: Shape, log: Callable[[], str], first: int, clients: int, hostile: int) -> Outcome:
    """So many in one process, with ids from ``first`` on. Raises BenchError."""
    program = ["-m", "tests.bench.trainers", "--port", str(port), "--clients", str(clients), "--first", str(first)]
    program += ["--model", shape.size, "--hostile", str(hostile)]
    program += ["--crowd"] if shape.crowd else []
    try:
        done = run_python(program, RUN_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"the run is not over after {RUN_SECONDS:g} s. The server said:\n{log()}") from error
    if done.returncode != 0:
        raise BenchError(f"the trainers failed:\n{done.stderr}\nThe server said:\n{log()}")
    return Outcome(**json.loads(done.stdout))


def run_server(shape: Shape, directory: Path, *options: str, hostile: int = 0, db: str | None = None) -> Run:
    """One run of the server, whose rounds must all have accepted every trainer's update. Raises BenchError, Refused."""
    with folder_in(directory) as folder:
        done = run(server_command(shape, folder, *options, db=db), shape, hostile=hostile)
        all_accepted(folder, shape, db=db)
    return done


def run_floor(shape: Shape, directory: Path) -> Run:
    """One run of the floor. Raises BenchError."""
    with folder_in(directory) as folder:
        return run(floor_command(shape, folder), shape)


ACCEPTED = """
    SELECT round, updates_accepted FROM v1_rounds WHERE round > 0
        AND run_id = (SELECT run_id FROM v1_runs ORDER BY started_at DESC LIMIT 1) ORDER BY event_seq"""


def all_accepted(folder: Path, shape: Shape, db: str | None = None) -> None:
    """Raises BenchError where a round of the newest run was made without somebody, or was tried twice."""
    with contextlib.closing(_opened(db) if db else sqlite3.connect(database_in(folder))) as database:
        found = database.execute(ACCEPTED).fetchall()
    if found != [(number, shape.clients) for number in range(1, shape.rounds + 1)]:
        raise BenchError(f"not every update was accepted; of {shape.clients}: {found}")


def _opened(db: str) -> Any:
    """A connection to PostgreSQL."""
    import psycopg

    return psycopg.connect(db)
