"""The table: what is measured, and what is to be reached on two cores."""

import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tests.bench import endurance, fleet, fsync
from tests.bench.databases import Databases
from tests.bench.driver import (
    Refused,
    Run,
    Shape,
    all_accepted,
    checkpoint_bytes,
    folder_in,
    run,
    run_floor,
    run_server,
    server_command,
)
from tests.bench.memory import idle_memory
from tests.bench.report import Figure

DESCRIPTORS = 20_000  # ``ulimit -n`` of the server with 8,000 trainers
ONE_NODE, FOUR_NODES = 1, 4
NODES = (ONE_NODE, 2, FOUR_NODES, 8)
WORKS_OF_NODES = ((32, "45"), (64, "10"), (128, "4.5"), (2000, "0.03"))
CORES_FOR_NODES = 12  # a server, four nodes with a few threads each, and trainers that do not hold them up
MOST_THREADS = 200  # of trainers; more share one thread in each process


@dataclass(frozen=True)
class Given:
    """Where to write, and what the command line asks for in place of the usual."""

    directory: Path
    turns: int | None = None  # times that server and floor take turns
    rounds: int | None = None
    long: bool = False
    crowd: bool = False
    processes: int | None = None  # that share the trainers
    fleet: int = 1000  # simulated trainers
    ingest: tuple[str, ...] = ()  # options of a server that has nodes, which is then held against one without
    databases: Databases | None = None  # PostgreSQL's, for the rows that need some

    def shape(self, clients: int, size: str, rounds: int) -> Shape:
        return Shape(clients, size, self.rounds or rounds, self.crowd, self.processes or 1)


@dataclass(frozen=True)
class Row:
    """One row. Not ``usual``: measured only where it is named."""

    measure: Callable[[Given], list[Figure]]
    usual: bool = True


def in_turn(given: Given, turns: int, *runs: Callable[[], Run]) -> list[tuple[Run, ...]]:
    """What else the machine does changes over the minutes that a benchmark takes, so that ratios are within a turn."""
    return [tuple(one() for one in runs) for _ in range(given.turns or turns)]


def against_the_floor(
    clients: int, size: str, most: float | None, given: Given, *, rounds: int = 6, turns: int = 3
) -> list[Figure]:
    """Seconds a round of the server over those of the floor, with the same trainers; or of one with nodes over those of
    one without."""
    shape = given.shape(clients, size, rounds)
    if given.ingest:
        return beside_none(shape, given, turns)
    done = in_turn(given, turns, lambda: run_floor(shape, given.directory), lambda: run_server(shape, given.directory))
    server = statistics.median(one.seconds for _, one in done)
    return [
        Figure(
            "a round, server / durable floor" + (", one thread" if given.crowd else ""),
            statistics.median(server.seconds / floor.seconds for floor, server in done),
            "×",
            most=most,
        ),
        Figure("lowest ratio of a turn", min(server.seconds / floor.seconds for floor, server in done), "×"),
        Figure("highest ratio of a turn", max(server.seconds / floor.seconds for floor, server in done), "×"),
        Figure("a round of the floor", 1000 * statistics.median(one.seconds for one, _ in done), "ms"),
        Figure("a round of the server", 1000 * server, "ms"),
        Figure("a trainer and round of the server", 1000 * server / clients, "ms"),
        Figure("the floor's peak memory", max(one.peak for one, _ in done) / 1e6, "MB"),
        Figure("the server's peak memory", max(one.peak for _, one in done) / 1e6, "MB"),
    ]


def beside_sqlite(
    clients: int, size: str, most: float | None, given: Given, *, rounds: int = 6, turns: int = 3
) -> list[Figure]:
    """Seconds a round of the server with its record on PostgreSQL over those with it on SQLite."""
    assert given.databases is not None, "main has opened them"
    shape, databases = given.shape(clients, size, rounds), given.databases

    def on_postgres() -> Run:
        with databases.fresh() as db:
            return run_server(shape, given.directory, db=db)

    done = in_turn(given, turns, lambda: run_server(shape, given.directory), on_postgres)
    return beside("record on PostgreSQL", "on SQLite", done, most)


def beside_none(shape: Shape, given: Given, turns: int) -> list[Figure]:
    """Seconds a round of a server with ingest nodes over those of one without, with the same trainers."""
    options, folder = given.ingest, given.directory
    done = in_turn(given, turns, lambda: run_server(shape, folder), lambda: run_server(shape, folder, *options))
    return beside(" ".join(options), "none", done, 1.3)


def scaling(given: Given) -> list[Figure]:
    """How many times as fast a server makes its rounds with more nodes than with one, where there are cores for them,
    and for trainers in several processes."""
    cores = len(os.sched_getaffinity(0))
    if cores < CORES_FOR_NODES:
        why = f"needs {CORES_FOR_NODES} cores"
        return [Figure(_faster(*work, ONE_NODE, FOUR_NODES), None, why, least=3) for work in WORKS_OF_NODES]
    return [figure for work in WORKS_OF_NODES for figure in _scaling(*work, given, cores)]


def _scaling(clients: int, size: str, given: Given, cores: int) -> list[Figure]:
    shape = given.shape(clients, size, 6)
    shape = replace(shape, processes=given.processes or cores // 4, crowd=given.crowd or clients > MOST_THREADS)
    ray = given.ingest[2:]  # the cluster's address, where there is one
    nodes = [(), *(("--ingest", str(count), *ray) for count in NODES)]
    done = in_turn(given, 3, *(partial(run_server, shape, given.directory, *options) for options in nodes))
    none, *each = zip(*(tuple(run.seconds for run in turn) for turn in done), strict=True)
    figures = [Figure(f"{_work(clients, size)}: a round, no node", 1000 * statistics.median(none), "ms")]
    for count, seconds in zip(NODES, each, strict=True):
        ratios = [one / more for one, more in zip(each[0], seconds, strict=True)]
        least = 3 if count == FOUR_NODES else None
        figures.append(Figure(_faster(clients, size, ONE_NODE, count), statistics.median(ratios), "×", least=least))
        figures.append(Figure(f"a round, --ingest {count}", 1000 * statistics.median(seconds), "ms"))
    return figures


def _work(clients: int, size: str) -> str:
    return f"{clients} × {size} MB"


def _faster(clients: int, size: str, few: int, many: int) -> str:
    return f"{_work(clients, size)}: a round, --ingest {few} / {many}"


def beside(what: str, usual: str, done: list[tuple[Run, ...]], most: float | None) -> list[Figure]:
    """Seconds a round of a server with ``what`` over those of the ``usual`` one, which was first in each turn."""
    ratios = [there.seconds / here.seconds for here, there in done]
    return [
        Figure(f"a round, {what} / {usual}", statistics.median(ratios), "×", most=most),
        Figure("lowest ratio of a turn", min(ratios), "×"),
        Figure("highest ratio of a turn", max(ratios), "×"),
        Figure(f"a round, {usual}", 1000 * statistics.median(here.seconds for here, _ in done), "ms"),
        Figure(f"a round, {what}", 1000 * statistics.median(there.seconds for _, there in done), "ms"),
        Figure(f"the server's peak memory, {usual}", max(here.peak for here, _ in done) / 1e6, "MB"),
        Figure(f"the server's peak memory, {what}", max(there.peak for _, there in done) / 1e6, "MB"),
    ]


def memory(size: str, given: Given, *, few: int = 8, many: int = 32) -> list[Figure]:
    """The peak over an idle server in model sizes, with few clients and with many."""
    # A server that compiled its loops keeps the compiler in memory: the first one may be the first of its tree.
    idle = min(idle_memory(size, given.directory) for _ in range(2))
    over: list[float] = []
    for clients in (few, many):
        shape = given.shape(clients, size, 4)
        with folder_in(given.directory) as folder:
            done = run(server_command(shape, folder), shape)
            all_accepted(folder, shape)
            over.append((done.peak - idle) / checkpoint_bytes(folder))
    return [
        Figure(f"peak over an idle server, {few} × {size} MB", over[0], "models", most=9),
        Figure(f"peak over an idle server, {many} × {size} MB", over[1], "models"),
        Figure(f"the same, {many} beside {few} trainers", over[1] - over[0], "models", most=0.5),
        Figure("the idle server", idle / 1e6, "MB"),
    ]


def durable_calls(size: str, given: Given, *, few: int = 8, many: int = 32) -> list[Figure]:
    """fsync and fdatasync in a short round, with few clients and with many."""
    first, second = f"fsync + fdatasync in a round, {few} trainers", f"the same, {many} beside {few} trainers"
    if why := fsync.cannot_count():
        return [Figure(first, None, why, most=5), Figure(second, None, why, most=0.7)]
    done = [fsync.syncs_a_round(clients, size, given.directory) for clients in (few, many)]
    return [
        Figure(first, done[0][0], "", most=5),
        Figure(f"fsync + fdatasync in a round, {many} trainers", done[1][0]),
        Figure(second, done[1][0] - done[0][0], "more", most=0.7),
        Figure("the longer of both rounds", max(seconds for _, seconds in done), "s", most=fsync.LONGEST),
    ]


def all_served(clients: int, given: Given) -> list[Figure]:
    """Whether so many trainers take part with so few descriptors."""
    shape = replace(given.shape(clients, "0.03", 3), crowd=True)
    limited = ["sh", "-c", f'ulimit -n {DESCRIPTORS}; exec "$@"', "sh"]
    with folder_in(given.directory) as folder:
        try:
            done = run([*limited, *server_command(shape, folder)], shape)
        except Refused as refused:
            return [Figure(f"served, ulimit -n {DESCRIPTORS}", refused.registered, "", least=clients)]
        all_accepted(folder, shape)
    return [
        Figure(f"served, ulimit -n {DESCRIPTORS}", clients, "", least=clients),
        Figure("a trainer and round", 1000 * done.seconds / clients, "ms"),
        Figure("peak memory", done.peak / 1e6, "MB"),
    ]


def long_run(given: Given) -> list[Figure]:
    usual = endurance.LONG_FORM if given.long else endurance.SHORT_FORM
    return endurance.endure(given.rounds or usual, given.directory)


def hostile(clients: int, size: str, given: Given) -> list[Figure]:
    """What it costs when one client of several has every exponent in every tensor, and its update counts."""
    shape, options = given.shape(clients, size, 4), ("--max-update-norm", "off")
    done = in_turn(
        given,
        3,
        lambda: run_server(shape, given.directory, *options),
        lambda: run_server(shape, given.directory, *options, hostile=1),
    )
    return [
        Figure(
            f"a round, one of {clients} hostile / none",
            statistics.median(bad.seconds / good.seconds for good, bad in done),
            "×",
            most=2,
        ),
        Figure("a round with one", 1000 * statistics.median(bad.seconds for _, bad in done), "ms"),
        Figure("peak memory with one", max(bad.peak for _, bad in done) / 1e6, "MB"),
        Figure("peak memory with none", max(good.peak for good, _ in done) / 1e6, "MB"),
    ]


def large(clients: int, size: str, given: Given) -> list[Figure]:
    """A model of nearly a gigabyte: whole rounds."""
    done = run_server(given.shape(clients, size, 2), given.directory)
    return [
        Figure("a round", max(done.rounds), "s", most=15),
        Figure("peak memory", done.peak / 1e9, "GB", most=8.5),
    ]


def simulated(given: Given) -> list[Figure]:
    return fleet.against_the_floor(given.fleet, given.directory, given.rounds, given.turns, given.ingest)


FLEET = "fleet"
QUICK = "3x0.03"
LARGE = "6x800"
ROWS = {
    "8x45": Row(partial(against_the_floor, 8, "45", 1.5)),
    "32x4.5": Row(partial(against_the_floor, 32, "4.5", 1.8, rounds=10)),
    "8x4.5": Row(partial(against_the_floor, 8, "4.5", 1.7, rounds=20)),
    "50x0.03": Row(partial(against_the_floor, 50, "0.03", 3, rounds=40)),
    "500x0.03": Row(partial(against_the_floor, 500, "0.03", 3, rounds=10)),
    "2000x0.03": Row(partial(against_the_floor, 2000, "0.03", 2, rounds=5)),
    "8x400": Row(partial(against_the_floor, 8, "400", 1.5, rounds=4)),
    "memory": Row(partial(memory, "45")),
    "fsync": Row(partial(durable_calls, "0.03")),
    "8000": Row(partial(all_served, 8000)),
    "rounds": Row(long_run),
    "hostile": Row(partial(hostile, 8, "45")),
    LARGE: Row(partial(large, 6, "800"), usual=False),
    "32x10": Row(partial(against_the_floor, 32, "10", None), usual=False),
    "nodes": Row(scaling, usual=False),
    FLEET: Row(simulated, usual=False),
    QUICK: Row(partial(against_the_floor, 3, "0.03", None, rounds=3, turns=1), usual=False),
}
"""Every row by its name; sizes in MB. How a figure is to be read stands in ``ops/MEASURING.md``."""


def on_postgres(name: str) -> str:
    """The name of the row that has the same trainers as that one, and compares records."""
    return f"pg {name}"


HELD = ("8x45", "50x0.03")  # what the figure was set for
ON_POSTGRES = {
    on_postgres(name): Row(
        partial(beside_sqlite, *row.measure.args[:2], 1.5 if name in HELD else None, **row.measure.keywords),
        usual=name in HELD,
    )
    for name, row in ROWS.items()
    if isinstance(row.measure, partial) and row.measure.func is against_the_floor
}
"""The rows of ``--db``, each as one of the others but for what is compared."""
