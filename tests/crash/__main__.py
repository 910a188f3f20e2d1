"""``python -m tests.crash [N]``: the crash sweep; ``ops/crash-sweep`` is what people call."""

import argparse
import json
import multiprocessing
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from multiprocessing.pool import Pool

from tests.crash import teeth
from tests.crash.at_nodes import Came, NodesSweep, Where
from tests.crash.on_postgres import STANDBY_SECONDS, PostgresSweep, Seen
from tests.crash.process import Patch, Point, warm_up
from tests.crash.said import Word
from tests.crash.scene import Fault
from tests.crash.sweep import Loss, Sweep, spread
from tests.postgres_server import running_postgres
from tests.ray_cluster import RayCluster

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
FORGETFUL = {
    teeth.batch_not_looked_up: ("reset", "ended by itself"),
    teeth.epoch_not_checked: ("successor", "went on with a run that another one had taken"),
}
"""The same of servers on PostgreSQL, with what has to come to grief."""
UNNOTICED = {
    teeth.loss_not_noticed: (False, "are not those of the uninterrupted run"),
    teeth.kept_not_added: (True, "are not those of the uninterrupted run"),
}
"""The same of servers over nodes, where updates are kept or not, and what has to show of a node that is killed."""
POINTS = 60  # on PostgreSQL
OVER_NODES, ON_RAY = 200, 10
BITES = 24  # points at most at which a broken server is cut off
AT = ("create", "rename", "commit", "committed")  # where a broken order shows
ENOUGH = 200  # distinct points that a sweep of all of them has to reach


def main() -> int:
    """Sweep; one JSON line of figures, a line for each thing that does not hold. Exit code 1 where there is one."""
    parser = argparse.ArgumentParser(prog="ops/crash-sweep")
    parser.add_argument(
        "points", nargs="?", type=int, metavar="N", help="cut a run off at N points; left out: at all, 60 or 200"
    )
    parser.add_argument("--db", choices=("sqlite", "postgres"), default="sqlite", help="what the record is on")
    parser.add_argument("--ingest", action="store_true", help="over nodes, of which one is killed, or the server")
    parser.add_argument("--ray", action="store_true", help="the same on a Ray cluster, with a server that stands by")
    parser.add_argument(
        "--part", default="1/1", metavar="I/K", help="each K-th of them, from the I-th on; teeth with 1"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="servers at once")
    parser.add_argument("--seed", type=int, help="of PostgreSQL's and nodes' points; left out: evenly spread")
    parser.add_argument(
        "--within", type=float, default=STANDBY_SECONDS, help="seconds that the server that stands by may take"
    )
    given = parser.parse_args()
    warm_up()
    part, parts = map(int, given.part.split("/"))
    those = slice(part - 1, None, parts)
    if given.ray:
        figures, wrong = sweep_ray(given, those)
        bitten: dict[str, str | None] = {}
    elif given.ingest:
        figures, wrong, bitten = sweep_nodes(given, those, with_teeth=part == 1)
    elif given.db == "postgres":
        figures, wrong, bitten = sweep_postgres(given, those, with_teeth=part == 1)
    else:
        figures, wrong, bitten = sweep(given.points, given.jobs, those, with_teeth=part == 1)
    wrong += [f"{name}: a server that does this was not found out" for name, found in bitten.items() if found is None]
    print(json.dumps(figures | {"teeth": bitten, "wrong": len(wrong)}))
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


def sweep(
    count: int | None, jobs: int, part: slice, *, with_teeth: bool
) -> tuple[dict[str, object], list[str], dict[str, str | None]]:
    """Cut the run off at ``part`` of ``count`` points (None: all), so many servers at once. Figures, what is wrong, and
    what shows of teeth."""
    whole = Sweep()
    points, losses = whole.points() | whole.resumed_points(), whole.losses()
    every = sum(map(len, points.values()))
    kills = spread(points, every if count is None else count * 3 // 5)
    power = spread(losses, sum(map(len, losses.values())) if count is None else count - len(kills))
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        biting = _map_teeth(pool, _bitten, [*KILLED, *POWERLESS] if with_teeth else [])
        where_to = [*kills, *power][part]
        found = dict(zip(where_to, pool.imap(whole.problems, where_to), strict=True))
        bitten = biting()
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
    return figures, wrong, bitten


_whole: PostgresSweep  # what the forked begin with


def _begin() -> None:
    _whole.on_a_server_of_its_own()


def _seen(task: tuple[Patch | None, Fault]) -> Seen:
    return _whole.seen(task[1], task[0])


def sweep_postgres(
    given: argparse.Namespace, part: slice, *, with_teeth: bool
) -> tuple[dict[str, object], list[str], dict[str, str | None]]:
    """The same of a run whose record is on PostgreSQL, with a server that stands by. The third is what shows of servers
    that break a promise."""
    global _whole
    chance = None if given.seed is None else random.Random(given.seed)
    with running_postgres() as postgres:
        _whole = PostgresSweep(postgres, given.within)
        points = _whole.points()
        where_to: list[tuple[Patch | None, Fault]] = [
            (None, fault) for fault in spread(points, given.points or POINTS, chance)[part]
        ]
        if with_teeth:
            for patch, (victim, _) in FORGETFUL.items():
                where_to += [(patch, fault) for fault in spread({"": points[f"{victim}, commit answered"]}, 1)]
        with multiprocessing.get_context("fork").Pool(given.jobs, _begin) as pool:
            found = list(zip(where_to, pool.imap(_seen, where_to), strict=True))
            pool.close()
            pool.join()
    faults = [(fault, seen) for (patch, fault), seen in found if patch is None]
    reached = [(fault, seen) for fault, seen in faults if seen.problems is not None]
    seconds = [seen.seconds for _, seen in reached if seen.seconds is not None]
    figures: dict[str, object] = {
        "said": {victim: dict(said) for victim, said in _whole.counts.items() if victim in ("server", "successor")},
        "faults": dict(Counter(fault.victim for fault, _ in reached)),
        "not_reached": len(faults) - len(reached),
        "ended_by": dict(Counter(seen.end for _, seen in reached)),
        "taken_over": len(seconds),
        "longest_seconds": round(max(seconds, default=0.0), 2),
    }
    bitten = {
        patch.__name__: next((f"{fault}: {line}" for line in seen.problems or () if FORGETFUL[patch][1] in line), None)
        for (patch, fault), seen in found
        if patch is not None
    }
    return figures, [f"{fault}: {line}" for fault, seen in reached for line in seen.problems or ()], bitten


_over_nodes: dict[bool, NodesSweep] = {}  # whether updates are kept; what the forked begin with


def _came(task: tuple[bool, Where]) -> Came:
    return _over_nodes[task[0]].came(task[1])


def sweep_nodes(
    given: argparse.Namespace, part: slice, *, with_teeth: bool
) -> tuple[dict[str, object], list[str], dict[str, str | None]]:
    """The same of a run over nodes; two points of five are where updates are kept. The third is what shows of teeth."""
    chance = None if given.seed is None else random.Random(given.seed)
    count, where_to = given.points or OVER_NODES, list[tuple[bool, Where]]()
    for keeps, many in ((False, count - count * 2 // 5), (True, count * 2 // 5)):
        whole = _over_nodes[keeps] = NodesSweep(keeps=keeps)
        where_to += [(keeps, where) for where in spread(whole.points(), many, chance)]
    with multiprocessing.get_context("fork").Pool(given.jobs) as pool:
        biting = _map_teeth(pool, _bitten_at_nodes, list(UNNOTICED) if with_teeth else [])
        found = list(zip(where_to[part], pool.imap(_came, where_to[part]), strict=True))
        bitten = biting()
    reached = [(task, came) for task, came in found if came.problems is not None]
    figures: dict[str, object] = {
        "said": _over_nodes[False].counts,
        "kills": dict(Counter(where.victim for (_, where), _ in reached)),
        "at": dict(Counter("said" if isinstance(where, Word) else "disk" for (_, where), _ in reached)),
        "not_reached": len(found) - len(reached),
        "resumed": sum(came.resumed for _, came in reached),
        "nodes_lost": sum(came.lost for _, came in reached),
        "added_again": sum(came.again for (keeps, _), came in reached if keeps),
    }
    kept = "updates are kept: "
    wrong = [f"{kept * keeps}{where}: {line}" for (keeps, where), came in reached for line in came.problems or ()]
    return figures, wrong, bitten


def sweep_ray(given: argparse.Namespace, part: slice) -> tuple[dict[str, object], list[str]]:
    """The same of nodes on a cluster of its own, one run after the other."""
    from tests.crash.on_ray import RaySweep

    chance = None if given.seed is None else random.Random(given.seed)
    with running_postgres() as postgres, closing(RayCluster()) as cluster:
        whole = RaySweep(cluster, postgres, given.within)
        words = spread(whole.points(), given.points or ON_RAY, chance)[part]
        found = [(word, whole.seen(word)) for word in words]
    reached = [(word, seen) for word, seen in found if seen.problems is not None]
    seconds = [seen.seconds for _, seen in reached if seen.seconds is not None]
    figures: dict[str, object] = {
        "said": dict(whole.said),
        "kills": dict(Counter(word.victim for word, _ in reached)),
        "not_reached": len(found) - len(reached),
        "taken_over": len(seconds),
        "trainers_stayed": sum(seen.stayed for _, seen in reached),
        "longest_seconds": round(max(seconds, default=0.0), 2),
    }
    return figures, [f"{word}: {line}" for word, seen in reached for line in seen.problems or ()]


def _map_teeth(
    pool: Pool, bitten: Callable[[Patch], str | None], patches: Sequence[Patch]
) -> Callable[[], dict[str, str | None]]:
    """Begin with what takes long: what shows of each, once it is asked for."""
    found = pool.map_async(bitten, patches, chunksize=1)
    return lambda: {patch.__name__: shown for patch, shown in zip(patches, found.get(), strict=True)}


def _bitten_at_nodes(patch: Patch) -> str | None:
    """What shows of a server over nodes that breaks a promise; None where nothing does."""
    keeps, sign = UNNOTICED[patch]
    broken = _over_nodes[keeps].patched(patch)
    where = [Word("node", "Confirmed", "after saying", number) for number in range(1, BITES)]
    shown = (f"{at}: {line}" for at in where for line in broken.came(at).problems or () if sign in line)
    return next(shown, None)


def _bitten(patch: Patch) -> str | None:
    """What shows of a server that breaks a promise; None where nothing does."""
    broken = Sweep(patch)
    if sign := KILLED.get(patch):
        where = spread({kind: members for kind, members in broken.points().items() if kind in AT}, BITES)
    else:
        sign, where = POWERLESS[patch], spread({"all": broken.losses()["all"]}, BITES)
    shown = (f"{at}: {line}" for at in where for line in broken.problems(at) or () if sign in line)
    return next(shown, None)


if __name__ == "__main__":
    sys.exit(main())
