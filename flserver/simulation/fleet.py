"""A simulated fleet, whose parts are played by processes of this machine or of others: followed, and ended."""

import contextlib
import math
import queue
import resource
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from flserver.errors import UsageError
from flserver.simulation.parts import Line, Player
from flserver.simulation.script import Counts

DESCRIPTORS_A_CLIENT: Final = 2.3  # of a server's process: a client's two, and its part of those for uploads
RESERVED_DESCRIPTORS: Final = 200
PORT_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
USUAL_PORTS: Final = 28_000


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


def check_descriptors(trainers: int, processes: int | None, servers: int) -> None:
    """Raise the soft limit of this process and of those that it starts: so many ``processes`` of trainers, None where
    they are not on this machine, and a server of its own in so many processes that serve trainers, 0: none.

    Raises UsageError where the hard one is too low.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needs = []
    if processes is not None:
        needs.append(("a process of trainers", -(-trainers // processes) + 64, "more --processes, or "))
    if servers:
        needed = math.ceil(DESCRIPTORS_A_CLIENT * trainers / servers) + RESERVED_DESCRIPTORS
        needs.append(("its server" if servers == 1 else "a node of its server", needed, "more of --ingest, or "))
    for who, needed, cure in needs:
        if needed > hard:
            where = "" if processes is None else f" in {processes} process{'es' * (processes > 1)}"
            raise UsageError(
                f"{trainers} trainers{where}: {who} needs {needed} descriptors, and may have {hard}: "
                f"{cure}ulimit -Hn {needed}, by who may raise it"
            )
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def local_ports() -> int:
    """How many ports an address of this machine has for connections to one server."""
    try:
        first, last = map(int, PORT_RANGE.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return USUAL_PORTS
    return last - first + 1


class Fleet:
    """What the ``players`` play, each a part."""

    def __init__(self, players: Sequence[Player]) -> None:
        self._players = players
        self._there = set(range(len(players)))
        self._began: dict[int, dict[int, Moment]] = {}
        self._told = 0
        self._said: queue.SimpleQueue[tuple[int, Line | Exception | None]] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._listen, args=(place, player), name=f"part-{place + 1}")
            for place, player in enumerate(players)
        ]
        for thread in self._threads:
            thread.start()

    def _listen(self, place: int, player: Player) -> None:
        try:
            for line in player.lines():
                self._said.put((place, line))
        except Exception as error:
            self._said.put((place, error))
        else:
            self._said.put((place, None))

    def follow(self) -> Iterator[Round | Outcome]:
        """Each round as soon as it is over, and at last what it came to. Raises FleetError."""
        outcome = Outcome()
        while self._there:
            place, said = self._said.get()
            if isinstance(said, Exception):
                raise said
            if said is None:
                self._there.discard(place)
            else:
                self._take(place, said, outcome)
            for made in self._rounds():
                outcome.rounds.append(made)
                yield made
        yield outcome

    def _take(self, place: int, line: Line, outcome: Outcome) -> None:
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
        while (now := self._began.get(self._told + 1)) and (after := self._began.get(self._told + 2)):
            if self._there - set(after):
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
        """End all parts, and wait for them."""
        for player in self._players:
            player.tell_to_end()
        for player in self._players:
            player.end()
        for thread in self._threads:
            thread.join()
        for player in self._players:
            player.close()
