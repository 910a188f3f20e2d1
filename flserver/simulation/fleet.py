"""The processes of a simulated fleet, and a server for it where there is none: started, followed, and ended."""

import contextlib
import json
import os
import re
import resource
import selectors
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from flserver.errors import FlserverError, UsageError
from flserver.settings import hosts
from flserver.settings.places import Place
from flserver.simulation.script import Counts, Member, part_of, to_line

START_SECONDS: Final = 300.0  # until a server listens
END_SECONDS: Final = 60.0  # until a server has ended whose run is over, or that was told to
LAST_LINES: Final = 30  # of a server's log, which are shown where it fails
DESCRIPTORS_A_CLIENT: Final = 3  # of a server's process: a client's two, and its part of those for uploads
RESERVED_DESCRIPTORS: Final = 200


class FleetError(FlserverError):
    """A process of the fleet, or its server, failed; the message has what it said."""


@dataclass(frozen=True)
class Moment:
    """When (seconds, monotonic) a round began, and what had been done by then: updates sent, bytes both ways."""

    at: float
    updates: int
    received: int
    sent: int


@dataclass
class Round:
    """What a round took, from the moment that its model is there until the next one's is."""

    number: int
    seconds: float
    updates: int
    bytes: int


@dataclass
class Outcome:
    """What a fleet came to: its rounds, what came of each trainer by its own account, what was odd, and the server's
    run."""

    rounds: list[Round] = field(default_factory=list)
    done: Counts = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)
    run: str = ""


class Server:
    """A server of our own on loopback, in a process of its own, that listens when this is made. It ends with this
    process, also where that is killed."""

    def __init__(self, options: Sequence[str]) -> None:
        """Raises FleetError where it ends before it listens."""
        self._process = subprocess.Popen(
            [*_tied(), sys.executable, "-m", "flserver", *options],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment("FLSERVER_"),
            start_new_session=True,  # Ctrl-C is ours: the server is told when the trainers are
        )
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._listens = threading.Event()
        self.port = 0
        self._reader = threading.Thread(target=self._read, name="server-log")
        self._reader.start()
        try:
            self._listens.wait(START_SECONDS)
            if not self.port:
                raise FleetError(f"the server does not listen:\n{self.log}")
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.append(line)
            if not self.port and (found := re.search(r"listening for trainers on .*:(\d+)$", line)):
                self.port = int(found[1])
                self._listens.set()
        self._listens.set()

    @property
    def log(self) -> str:
        """Its last lines."""
        return "".join(self._lines)

    def end(self) -> int:
        """Wait until it ends by itself, and return its exit code. Raises FleetError where it does not."""
        try:
            code = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise FleetError(f"the server goes on after its last round:\n{self.log}") from error
        self._reader.join()
        return code

    def close(self) -> None:
        """Stop it where it has not ended, and wait for it."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()


def _tied() -> list[str]:
    """What a command begins with that is to end with this process."""
    return [sys.executable, "-m", "flserver.simulation.tied", str(os.getpid())]


def environment(without: str = "\0") -> dict[str, str]:
    """Ours with one thread for arithmetic, without the variables that begin so."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(without)}
    return {"OMP_NUM_THREADS": "1"} | kept


def check_descriptors(trainers: int, processes: int, own_server: bool) -> None:
    """Raise the soft limit of this process and of those that it starts.

    Raises UsageError where the hard one is too low.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needs = [("a process of trainers", -(-trainers // processes) + 64, "more --processes, or ")]
    if own_server:
        needs.append(("its server", DESCRIPTORS_A_CLIENT * trainers + RESERVED_DESCRIPTORS, ""))
    for who, needed, cure in needs:
        if needed > hard:
            raise UsageError(
                f"{trainers} trainers in {processes} process{'es' * (processes > 1)}: {who} needs {needed} "
                f"descriptors, and may have {hard}: {cure}ulimit -Hn {needed}, by who may raise it"
            )
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Fleet:
    """Processes that play the ``members`` against the server at the address ``where``."""

    def __init__(
        self,
        members: Sequence[Member],
        processes: int,
        where: hosts.Address,
        training: Mapping[str, Any] | None = None,
    ) -> None:
        self._crowds = [
            _Crowd(part_of(members, number, processes), where, training)
            for number in range(1, min(processes, len(members)) + 1)
        ]
        self._began: dict[int, dict[int, Moment]] = {}
        self._told = 0

    def follow(self) -> Iterator[Round | Outcome]:
        """Each round as soon as it is over, and at last what it came to. Raises FleetError."""
        outcome, left = Outcome(), len(self._crowds)
        with selectors.DefaultSelector() as selector:
            for place, crowd in enumerate(self._crowds):
                selector.register(crowd.lines, selectors.EVENT_READ, (place, crowd))
            while left:
                for key, _ in selector.select():
                    place, crowd = key.data
                    for line in crowd.read():
                        self._take(place, line, outcome)
                    if crowd.ended:
                        selector.unregister(crowd.lines)
                        crowd.check()
                        left -= 1
                for made in self._rounds():
                    outcome.rounds.append(made)
                    yield made
        yield outcome

    def _take(self, place: int, line: Mapping[str, Any], outcome: Outcome) -> None:
        moment = Moment(line["at"], line["updates"], line["received"], line["sent"])
        if "began" in line:
            self._began.setdefault(line["began"], {})[place] = moment
            return
        outcome.run = outcome.run or line["run"]
        outcome.notes.update(line["notes"])
        for client_id, counts in line["done"].items():
            outcome.done[client_id] = Counter(counts)

    def _rounds(self) -> Iterator[Round]:
        """Those that are over for all who are still there, and have not been told."""
        there = {place for place, crowd in enumerate(self._crowds) if not crowd.ended}
        while (now := self._began.get(self._told + 1)) and (after := self._began.get(self._told + 2)):
            if there - set(after):
                return
            self._told += 1
            both = set(now) & set(after)
            yield Round(
                self._told,
                max(one.at for one in after.values()) - max(one.at for one in now.values()),
                sum(after[place].updates - now[place].updates for place in both),
                sum(
                    after[place].received + after[place].sent - now[place].received - now[place].sent for place in both
                ),
            )

    def close(self) -> None:
        """End all processes, and wait for them."""
        for crowd in self._crowds:
            crowd.tell_to_end()
        for crowd in self._crowds:
            crowd.close()


class _Crowd:
    """A process with a part of the trainers."""

    def __init__(self, members: Sequence[Member], where: hosts.Address, training: Mapping[str, Any] | None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flserver.simulation.crowd"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self.lines = self._process.stdin, self._process.stdout
        self._rest, self.ended = b"", False
        # The address, and not its name: that could mean another machine by now.
        part = {"where": where, "members": [*map(to_line, members)], "training": training}
        with contextlib.suppress(BrokenPipeError):  # it says why when it is read
            self._stdin.write(f"{json.dumps(part)}\n".encode())
            self._stdin.flush()

    def read(self) -> list[Mapping[str, Any]]:
        """The lines that have come."""
        data = os.read(self.lines.fileno(), 1 << 16)
        self.ended = not data
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in whole]

    def check(self) -> None:
        """Raises FleetError where it failed."""
        if code := self._process.wait():
            raise FleetError(f"a process of trainers ended with exit code {code}; what it said stands above")

    def tell_to_end(self) -> None:
        with contextlib.suppress(OSError):
            self._stdin.close()

    def close(self) -> None:
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.lines.close()


def server_options(
    db: Place, model: str, rounds: int, seed: int, members: Sequence[Member], more: Sequence[str]
) -> list[str]:
    """Those of a server for these trainers alone: a round begins when all are there, and each has its connections."""
    joining = sum(member.takes_part for member in members)
    connections = str(max(4096, 4 * len(members)))
    given = {
        "--db": str(db),
        "--model": model,
        "--num-rounds": str(rounds),
        "--seed": str(seed),
        "--server-port": "0",
        "--metrics-port": "0",
        "--time-to-wait": "0",
        "--min-clients": str(joining),
        "--max-connections": connections,
        "--max-connections-per-address": connections,
        "--strangers-per-minute": connections,  # uploads that break off are few, and have their rows
        "--stop-grace": "0",
    }
    return [*(word for pair in given.items() for word in pair), *more]
