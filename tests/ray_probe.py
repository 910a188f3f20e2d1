"""``python -m tests.ray_probe ADDRESS FOLDER``: what a cluster does with the calls of an actor, as JSON."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from flserver.cluster.ray import CALLS, Cluster
from flserver.errors import FlserverError
from flserver.ingest.faults import NodesFault
from flserver.process.ray.node import RayNode
from tests.patience import PATIENCE

LATE = 2.0  # seconds in which a process that is stopped does not answer


class Probe:
    """An actor, whose calls wait for a file."""

    apart: ClassVar[Mapping[str, str]] = RayNode.apart

    def process(self) -> int:
        return os.getpid()

    def wait(self, file: str) -> None:
        while not Path(file).exists():
            time.sleep(0.05)

    def is_there(self) -> bool:
        return True

    def cut(self, name: str) -> bytes:
        raise NodesFault(name, "no room") if name else ValueError("a defect")

    def made(self, *others: bytes) -> bytes:
        return b"".join(others)


def raised(call: Callable[[], object]) -> list[str]:
    """The error's class, its text and the node that it names."""
    try:
        return ["", str(call()), ""]
    except FlserverError as error:
        return [type(error).__name__, str(error), getattr(error, "node", "")]


def probed(cluster: Cluster, folder: Path) -> dict[str, Any]:
    """What it does, by what was tried."""
    actor, other = (cluster.make(Probe, f"probe-{number}") for number in (1, 2))
    process, there = cluster.get(actor.process.remote(), PATIENCE), folder / "there"
    found: dict[str, Any] = {}
    waiting = [actor.wait.remote(str(there)) for _ in range(CALLS + 1)]
    found["while all threads wait"] = cluster.get(actor.is_there.remote(), PATIENCE)
    found["answered"] = [cluster.answered(waiting[0], 0.0), cluster.is_made(waiting[0])]
    there.touch()
    cluster.get_all(waiting, PATIENCE)
    found["answered"] += [cluster.answered(waiting[0], 0.0), cluster.is_made(waiting[0])]
    for name in ("node-7", ""):
        of_another = other.made.remote(actor.cut.remote(name))
        found[f"of {name or 'all'}"] = raised(lambda given=of_another: cluster.get(given, PATIENCE))
    found["made twice"] = raised(lambda: cluster.make(Probe, "probe-1"))[0]
    found["of what cannot be carried"] = raised(lambda: cluster.call(actor, "wait", threading.Lock()))[0]
    os.kill(process, signal.SIGSTOP)
    found["stopped"] = raised(lambda: cluster.get(actor.is_there.remote(), LATE))
    for one in (actor, other):
        cluster.kill(one)
    found["killed"] = raised(lambda: cluster.get(actor.is_there.remote(), PATIENCE))[0]
    return found


if __name__ == "__main__":
    joined = Cluster(sys.argv[1], "probed")
    sys.stdout.write(json.dumps(probed(joined, Path(sys.argv[2]))))
    joined.leave()
