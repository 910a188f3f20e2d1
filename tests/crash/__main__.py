"""``python -m tests.crash [N]``: the crash sweep; ``ops/crash-sweep`` is what people call."""

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator

from tests.crash import teeth
from tests.crash.process import Point, warm_up
from tests.crash.sweep import Loss, Sweep, spread

KILLED = {
    teeth.row_before_file: "is committed without its checkpoint",
    teeth.rename_after_row: "is committed without its checkpoint",
    teeth.answer_before_row: "and the record does not say so",
}
"""Servers that break a promise, and what a kill somewhere has to show of it; below what a power loss has to."""
POWERLESS = {
    teeth.file_never_synced: "is committed without its checkpoint",
    teeth.folder_never_synced: "is committed without its checkpoint",
}
BITES = 24  # points at most at which a broken server is cut off
AT = ("create", "rename", "commit", "committed")  # where a broken order shows
ENOUGH = 200  # distinct points that a sweep of all of them has to reach


def main() -> int:
    """Sweep; one JSON line of figures, a line for each thing that does not hold. Exit code 1 where there is one."""
    parser = argparse.ArgumentParser(prog="ops/crash-sweep")
    parser.add_argument("points", nargs="?", type=int, metavar="N", help="cut a run off at N points; left out: at all")
    parser.add_argument(
        "--part", default="1/1", metavar="I/K", help="each K-th of them, from the I-th on; teeth with 1"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="servers at once")
    given = parser.parse_args()
    warm_up()
    part, parts = map(int, given.part.split("/"))
    figures, wrong = sweep(given.points, given.jobs, slice(part - 1, None, parts))
    bitten = dict(bites()) if part == 1 else {}
    wrong += [f"{name}: a server that does this was not found out" for name, found in bitten.items() if found is None]
    print(json.dumps(figures | {"teeth": bitten, "wrong": len(wrong)}))
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


def sweep(count: int | None, jobs: int, part: slice) -> tuple[dict[str, object], list[str]]:
    """Cut the run off at ``part`` of ``count`` points (None: all), so many servers at once. Figures, and what is
    wrong."""
    whole = Sweep()
    points, losses = whole.points(), whole.losses()
    every = sum(map(len, points.values()))
    kills = spread(points, every if count is None else count * 3 // 5)
    power = spread(losses, sum(map(len, losses.values())) if count is None else count - len(kills))
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        where_to = [*kills, *power][part]
        found = dict(zip(where_to, pool.imap(whole.problems, where_to), strict=True))
    reached = [where for where, problems in found.items() if problems is not None]
    figures: dict[str, object] = {
        "operations": {kind: len(members) for kind, members in points.items()},
        "kills": sum(isinstance(where, Point) for where in reached),
        "power_losses": sum(isinstance(where, Loss) for where in reached),
        "not_reached": len(found) - len(reached),  # another grouping of transactions had fewer operations
    }
    wrong = [f"{where}: {line}" for where, problems in found.items() for line in problems or ()]
    if part.step == 1 and count is None and len(reached) < ENOUGH:
        wrong.append(f"only {len(reached)} points were reached, not {ENOUGH}")
    return figures, wrong


def bites() -> Iterator[tuple[str, str | None]]:
    """What shows of each server that breaks a promise; None where nothing does."""
    for patch, sign in (*KILLED.items(), *POWERLESS.items()):
        broken = Sweep(patch)
        if patch in KILLED:
            where = spread({kind: members for kind, members in broken.points().items() if kind in AT}, BITES)
        else:
            where = spread({"all": broken.losses()["all"]}, BITES)
        shown = (f"{at}: {line}" for at in where for line in broken.problems(at) or () if sign in line)
        yield patch.__name__, next(shown, None)


if __name__ == "__main__":
    sys.exit(main())
