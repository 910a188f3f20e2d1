"""The benchmark's command line; ``ops/bench`` runs it."""

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tests.bench.databases import OWN, databases
from tests.bench.driver import ROOT, BenchError, allow_descriptors, environment
from tests.bench.report import Report
from tests.bench.rows import FLEET, LARGE, ON_POSTGRES, QUICK, ROWS, Given, Row, on_postgres

PARTS = {"framing": 4.5, "machine": 4.5, "template": 4.5, "checkpoint": 4.5, "round": 2.25}  # GB


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="ops/bench",
        description="What a round costs when training costs nothing, against the least that any server must do: a "
        "table of what is measured and what is to be reached on two cores. Quote the ratios (server / floor): seconds "
        "mean nothing on a machine that does other work.",
        epilog="Exit codes: 0 measured, 1 a row could not be, or with --strict falls short, 2 usage.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--row", action="append", choices=ROWS, help="one row of the table; may be repeated")
    what.add_argument("--quick", action="store_true", help=f"{QUICK}, 3 rounds, once: does it work at all?")
    what.add_argument(
        "--fleet", type=int, nargs="?", const=1000, metavar="N", help="N (1000) trainers of flserver simulate"
    )
    what.add_argument("--micro", action="store_true", help="the parts: parse, write, average, record")
    what.add_argument(
        "--large",
        action="store_true",
        help=f"bodies over 4 GiB, part by part, a whole round of 2.25 GB, and the row {LARGE}",
    )
    parser.add_argument(
        "--db",
        metavar=f"{OWN}|ADDRESS",
        help="rounds with the record on PostgreSQL, against the same on SQLite: on one that is started for this and "
        "runs on the same cores, or in a database of yours, postgresql://USER@HOST/DATABASE, where the runs then stay",
    )
    parser.add_argument("--rounds", type=int, help="of each run, in place of the row's own number")
    parser.add_argument("--turns", type=int, help="times that server and floor take turns (default: 3)")
    parser.add_argument("--long", action="store_true", help="the row “rounds” with 10,000 of them, not 1,000")
    parser.add_argument("--crowd", action="store_true", help="trainers in one thread, not in one each: cheaper")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="that share the trainers (1; of the row nodes a fourth of the cores)"
    )
    parser.add_argument(
        "--ingest", type=int, metavar="N", help="a server with N nodes against one without, in place of the floor"
    )
    parser.add_argument("--ray-address", metavar="HOST:PORT", help="the nodes are on that Ray cluster")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and what machine it is")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="show an earlier --json beside it")
    parser.add_argument("--strict", action="store_true", help="end with 1 where a row falls short")
    parser.add_argument("--size", default="45", choices=("0.03", "4.5", "45"), help="MB of --micro's model")
    parser.add_argument("--gb", type=float, help="GB of --large's model, for all of its parts, and no row after them")
    parser.add_argument(
        "--dir", type=Path, default=ROOT / "build", help="where both write; a disk whose fsync is one (default: build)"
    )
    given = parser.parse_args()
    one = [QUICK] if given.quick else [LARGE] if given.large else [FLEET] if given.fleet else []
    rows, named = ROWS, one or given.row or []
    if given.db is not None:
        rows, named = ON_POSTGRES, [on_postgres(name) for name in named]
        if given.micro or not rows.keys() >= set(named):
            parser.error("--db goes with the rows of so many trainers × MB")
    given.dir.mkdir(parents=True, exist_ok=True)
    if given.micro:
        from tests.bench.micro import micro  # torch stays out of the process that measures others' memory

        print(json.dumps(micro(given.size, given.dir)))
        return 0
    if given.large and ((failed := large_parts(given.gb, given.dir)) or given.gb is not None):
        return failed
    try:
        report = Report.beside(given.compare)
    except (OSError, ValueError) as error:
        parser.error(f"--compare {given.compare}: {error}")
    nodes = ("--ingest", str(given.ingest)) if given.ingest else ()
    nodes += ("--ray-address", given.ray_address) if given.ray_address else ()
    wanted = Given(
        given.dir, given.turns, given.rounds, given.long, given.crowd, given.processes, given.fleet or 1000, nodes
    )
    with contextlib.ExitStack() as stack:
        if given.db is not None:
            try:
                wanted = replace(wanted, databases=stack.enter_context(databases(given.db, given.dir)))
            except BenchError as error:
                parser.error(str(error))
        measure(named or [name for name, row in rows.items() if row.usual], rows, wanted, report)
    if given.json is not None:
        given.json.write_text(json.dumps(report.as_json(), indent=1) + "\n")
    return int(bool(report.failed) or (given.strict and report.falls_short))


def measure(names: Sequence[str], rows: Mapping[str, Row], given: Given, report: Report) -> None:
    """Print each row as soon as it is there."""
    allow_descriptors()
    if given.databases is not None:
        report.machine["postgresql"] = given.databases.said
    print(report.head(), flush=True)
    for name in names:
        try:
            lines = report.add(name, rows[name].measure(given))
        except (BenchError, TimeoutError) as error:
            lines = report.fail(name, str(error))
            print(f"{name}: {error}", file=sys.stderr)
        print(lines, flush=True)
    print(report.end())


def large_parts(gb: float | None, directory: Path) -> int:
    """Each part of :mod:`tests.bench.large` in turn. Returns the exit code of the first that fails, or 0."""
    for part, usual in PARTS.items():
        command = [sys.executable, "-m", "tests.bench.large", "--part", part, "--gb", str(gb or usual)]
        done = subprocess.run([*command, "--dir", str(directory)], cwd=ROOT, env=environment())
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
