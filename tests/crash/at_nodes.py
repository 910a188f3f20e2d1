"""The small run over nodes, in which a node or the server is killed at one thing that they say to each other, or at one
of the operations on the disk."""

import os
import random
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar, get_args

from tests.crash.crowd import COUNT, Crowd
from tests.crash.node_maker import fork_nodes
from tests.crash.operations import Kind, Operation, watch
from tests.crash.process import Patch, Point, Server, recorded, serving
from tests.crash.said import MOMENTS, Counted, Struck, Victim, Word, watch_lines
from tests.crash.script import ROUNDS
from tests.crash.verdict import Uninterrupted, after_all, after_crash, files_of, looked_at
from tests.patience import PATIENCE

NODES = 2
ALL = dict.fromkeys(range(1, ROUNDS + 1), COUNT)
OPTIONS = ("--min-updates", str(len(COUNT)), "--round-attempts", "99", "--ingest", str(NODES), "--resume")
KEPT_STEPS: tuple[Kind, ...] = ("create", "write", "fsync", "rename")
KEPT_UPDATES = ROUNDS * len(COUNT)
LOST = "SELECT COUNT(*) FROM v1_events WHERE type = 'NodeLost'"
AGAIN = """SELECT COUNT(*) FROM v1_updates u JOIN v1_connections c USING (run_id, connection_id)
    JOIN v1_events e ON e.run_id = u.run_id AND e.type = 'NodeLost' AND json_extract(e.payload, '$.node') = c.node
    JOIN v1_rounds r ON r.run_id = u.run_id AND r.round = u.answers_round AND r.attempt = u.answers_attempt
    WHERE u.decision = 'accepted' AND e.seq < r.event_seq AND e.at BETWEEN u.received_at AND r.ended_at"""


@dataclass(frozen=True, order=True)
class OnDisk:
    """The ``victim`` is killed before one of its operations on the disk."""

    victim: Victim
    point: Point

    def __str__(self) -> str:
        return f"the {self.victim} before {self.point}"


Where = Word | OnDisk
T = TypeVar("T")


@dataclass(frozen=True)
class Came:
    """What came of a kill: ``problems`` is None where the run did not come to it. ``resumed`` says whether another
    server went on, ``lost`` how many nodes were, ``again`` how many updates of theirs were added again from where they
    were kept."""

    problems: list[str] | None
    resumed: bool = False
    lost: int = 0
    again: int = 0


class NodesSweep:
    """The uninterrupted run, which the others are held against. ``keeps`` says whether updates are kept."""

    def __init__(self, *, keeps: bool = False) -> None:
        """Raises AssertionError where the run cannot be recorded."""
        self._options, self._keeps = (*OPTIONS, *(("--keep-updates",) if keeps else ())), keeps
        self._patch: Patch | None = None
        with tempfile.TemporaryDirectory() as scratch:
            folder, tally, disk = Path(scratch, "run"), Path(scratch, "tally"), Path(scratch, "disk")
            folder.mkdir()
            crowd = Crowd()
            with self._serving(folder, record=disk, patch=lambda: _tally(tally)) as server:
                self._play(server, crowd)
                assert server.end() == 0, server.log
            with looked_at(folder) as record:
                self._meant = Uninterrupted(tuple(row[1] for row in record.rounds), files_of(record))
                problems = [*crowd.problems, *after_all(record, self._meant, crowd.effects, ALL)]
            assert not problems, (problems, server.log)
            self._said = Counter(tally.read_text(encoding="ascii").splitlines())
            self._disk = Counter(operation.kind for operation in recorded(disk))

    def patched(self, patch: Patch) -> "NodesSweep":
        """The same, where ``patch`` is done to every server and every node of a run that is cut off."""
        other = copy(self)
        other._patch = patch
        return other

    @property
    def counts(self) -> dict[str, int]:
        """What the server says, and hears, by kind."""
        return dict(self._said)

    def points(self) -> dict[str, list[Where]]:
        """Every point, in groups. What the server says is heard by its nodes: by each one half of it, more or less."""
        groups: dict[str, list[Where]] = {}
        for victim in get_args(Victim):
            for moment in MOMENTS:
                for line, count in sorted(self._said.items()):
                    kind, way = line.split()
                    if moment.endswith(way) == (victim == "server"):
                        many = count if victim == "server" else -(-count // NODES)
                        groups[f"{victim} {moment} {kind}"] = [Word(victim, kind, moment, k + 1) for k in range(many)]
        disk: dict[Victim, dict[Kind, int]] = {"server": dict(self._disk), "node": {}}
        if self._keeps:
            disk["node"] = dict.fromkeys(KEPT_STEPS, KEPT_UPDATES // NODES)
        for victim, counts in disk.items():
            for operation, count in counts.items():
                groups[f"{victim}, {operation}"] = [OnDisk(victim, Point(operation, k + 1)) for k in range(count)]
        return mixed(groups)

    # --- one of them -------------------------------------------------------------------------------------------------

    def came(self, where: Where) -> Came:
        """What comes of it. Where the run is over before it comes there, it is made again with an earlier point."""
        came = self._came(where)
        while came.problems is None and (earlier := _earlier(where)) is not None:
            where = earlier
            came = self._came(where)
        return came

    def _came(self, where: Where) -> Came:
        crowd = Crowd()
        with tempfile.TemporaryDirectory() as folder:
            try:
                return self._through(Path(folder), where, crowd)
            except Exception as error:
                return Came([*crowd.problems, f"{type(error).__name__}: {error}"])

    def _through(self, folder: Path, where: Where, crowd: Crowd) -> Came:
        struck = Struck()

        def on_node(number: int) -> None:
            if where.victim == "node" and number == 1:
                _arm(where, struck, folder)

        def on_server() -> None:
            if where.victim == "server":
                _arm(where, struck, folder)
            if self._patch is not None:
                self._patch()

        with self._serving(folder, on_node, patch=on_server) as server:
            self._play(server, crowd)
            code, log = server.end(), server.log
        if not struck and code == 0:
            return Came(None)
        resumed, problems = code != 0, list(crowd.problems)
        if code != (-signal.SIGKILL if where.victim == "server" else 0) or "Traceback" in log:
            problems.append(f"the server ended by itself with {code}: {log}")
        if resumed:
            with looked_at(folder) as record:
                problems += after_crash(record, self._meant, crowd.effects)
            with self._serving(folder) as server:
                self._play(server, crowd)
                if code := server.end():
                    problems.append(f"it cannot be resumed: exit code {code}: {server.log}")
        with looked_at(folder) as record:
            problems += after_all(record, self._meant, crowd.effects, ALL)
            ((lost,),), ((again,),) = record.ask(LOST), record.ask(AGAIN)
        return Came([*crowd.problems, *problems], resumed, lost, again)

    def _serving(
        self, folder: Path, on_node: Callable[[int], object] = lambda number: None, **options: Any
    ) -> AbstractContextManager[Server]:
        def on_each(number: int) -> None:
            on_node(number)
            if self._patch is not None:
                self._patch()

        place: Sequence[str] = ("--db", str(folder / "runs.sqlite"), *self._options)
        return serving(folder, *place, first=partial(fork_nodes, on_each), **options)

    def _play(self, server: Server, crowd: Crowd) -> None:
        if (port := server.port()) is None:
            return
        hangs = threading.Event()

        def give_up() -> None:
            hangs.set()
            os.kill(server.pid, signal.SIGKILL)

        watchdog = threading.Timer(PATIENCE, give_up)
        watchdog.start()
        crowd.take_part(port)
        server.end()
        watchdog.cancel()
        watchdog.join()
        assert not hangs.is_set(), f"it hangs: {server.log}"


def mixed(groups: Mapping[str, T]) -> dict[str, T]:
    """The same in an order of which the first few are of every sort: a victim's beside the other one's."""
    of = {victim: sorted(name for name in groups if name.startswith(victim)) for victim in get_args(Victim)}
    for names in of.values():
        random.Random(len(names)).shuffle(names)
    return {name: groups[name] for pair in zip_longest(*of.values()) for name in pair if name is not None}


def _earlier(where: Where) -> Where | None:
    number = where.number if isinstance(where, Word) else where.point.number
    if number == 1:
        return None
    if isinstance(where, Word):
        return replace(where, number=number * 4 // 5)
    return replace(where, point=replace(where.point, number=number * 4 // 5))


def _arm(where: Where, struck: Struck, folder: Path) -> None:
    """In the victim's process: it ends there."""
    if isinstance(where, Word):
        watch_lines(Counted(where, struck.kill))
        return
    counts, point = Counter[Kind](), where.point

    def before(operation: Operation) -> None:
        counts[operation.kind] += 1
        if (operation.kind, counts[operation.kind]) == (point.kind, point.number):
            struck.kill()

    watch(folder, before, lambda operation: None)


def _tally(file: Path) -> None:
    """In a server's process: what it says and hears goes into the file."""
    watch_lines(Counted(None, lambda: None, os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)))
