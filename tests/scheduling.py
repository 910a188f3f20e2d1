"""In which order tests run, and which of them stay together in one of xdist's workers.

A fixture of a module or a session is made once in each worker that has a test of it. So a file stays whole, but for
those that start a server process for each test: these are long, and any worker takes the next one.
"""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

TESTS = Path(__file__).parent
WITH_SERVERS = {"crash", "e2e", "test_bench_tools.py"}
LONGEST = (
    "e2e/test_several_machines.py",
    "e2e/test_clusters.py",
    "e2e/hostile/test_hostile_corpus.py",
    "e2e/test_soak.py",
    "e2e/test_ray_takeover.py",
    "e2e/test_simulate_on_ray.py",
    "e2e/test_ray_nodes.py",
    "crash/test_sweep.py",
    "crash/test_at_nodes.py",
    "crash/test_on_postgres.py",
    "test_bench_tools.py",
    "e2e/test_disks.py",
    "e2e/test_kept_running.py",
    "e2e/test_wheel.py",
    "e2e/test_simulate.py",
    "e2e/test_object_store.py",
    "e2e/test_turns.py",
    "e2e/test_drop_outs.py",
)
TOGETHER = {
    "machines in a Ray cluster": ("e2e/test_several_machines.py", "e2e/test_clusters.py"),
    "servers in a Ray cluster": ("e2e/test_ray_takeover.py", "e2e/test_simulate_on_ray.py", "e2e/test_ray_nodes.py"),
    "a Ray cluster": ("cluster/test_ray.py", "process/ray/test_room.py"),
}
"""Files that are one unit, by its name: a cluster takes its time to start, and two that start side by side starve each
other."""


def starts_servers(path: Path) -> bool:
    """Whether it stands where server processes are started."""
    return path.relative_to(TESTS).parts[0] in WITH_SERVERS


def order(items: list[pytest.Item]) -> None:
    """What starts a server process comes last, so that a failure in anything smaller shows early; of that the longest
    first, so that no worker has long work left when the others have none."""
    items.sort(key=lambda item: _turn(item.path))


def _turn(path: Path) -> tuple[bool, int]:
    name = path.relative_to(TESTS).as_posix()
    return starts_servers(path), LONGEST.index(name) if name in LONGEST else len(LONGEST)


@cache
def unit_of(file: str) -> str | None:
    """What the tests of a file are one unit of; None where each is one of its own. ``file`` as node ids begin."""
    path = TESTS.parent / file
    name = path.relative_to(TESTS).as_posix()
    for unit, files in TOGETHER.items():
        if name in files:
            return unit
    whole = not starts_servers(path) or 'scope="module"' in path.read_text(encoding="utf-8")
    return file if whole else None


class ByFixtures(LoadScopeScheduling):
    """xdist's, which gives whoever is about to have nothing the next unit, in the order of the tests.

    A worker begins a test when it knows the next one, so one waits behind it. xdist lets two wait, while another worker
    may have nothing to do: of those that start servers each is long.
    """

    def __init__(self, config: pytest.Config, log: Any) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid.partition("::")[0]) or nodeid

    def _reschedule(self, node: WorkerController) -> None:
        while self._pending_of(self.assigned_work[node]) <= 1 and not node.shutting_down:
            super()._reschedule(node)
