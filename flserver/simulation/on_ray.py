"""A part of a fleet as an actor of a Ray cluster, seen from the machine that follows it. It ends with this process."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from flserver.clock import monotonic
from flserver.cluster.ray import Cluster
from flserver.errors import FlserverError, UsageError, one_line
from flserver.settings import hosts
from flserver.simulation.parts import FleetError, Line, Part, is_loopback
from flserver.simulation.ray_part import RayPart
from flserver.sources import digest_of_package

BEGIN_SECONDS: Final = 120.0  # that a process may take to start
TAKE_SECONDS: Final = 1.0  # that a part waits for something to say, before it says that there is nothing
GONE_SECONDS: Final = 60.0  # that it may take longer than that, for it may be training: then it is gone


def check_reachable(cluster: Cluster, where: hosts.Address, server: str) -> None:
    """Raises UsageError where some machines of the cluster have another ``server`` than is meant at this address, or
    none."""
    others = [host for machine, host in cluster.machines.items() if machine != cluster.machine]
    if others and is_loopback(where):
        raise UsageError(
            f"{server} is on this machine's loopback, where the trainers on {others[0]} do not find it: start one that "
            "the cluster's machines reach, and give its address there: --host, --server-port, --target-is-mine"
        )


def players(cluster: Cluster, parts: Sequence[Part], say: Callable[[str], None]) -> list["PartOnRay"]:
    """All parts, each where Ray puts it, and begun; ``say`` is told where. Raises UsageError where a machine cannot
    play, FleetError where one does not begin."""
    made = [PartOnRay(cluster, part) for part in parts]  # their processes start side by side
    for one in made:
        one.check()
    for one in made:
        one.begin()
        say(f"{one} {len(one.part.members):,} trainers")
    return made


class PartOnRay:
    """``part`` in a process of some machine."""

    def __init__(self, cluster: Cluster, part: Part) -> None:
        """Raises FleetError."""
        self._cluster, self.part = cluster, part
        self._host, self._pid = "", 0
        with self._begins():
            self._actor = cluster.make_own(RayPart)
            self._about = cluster.call(self._actor, "where")

    def __str__(self) -> str:
        return f"part {self.part.number} (process {self._pid} on {self._host}):"

    def check(self) -> None:
        """Wait until it is there. Raises UsageError, FleetError."""
        with self._begins():
            about = self._cluster.get(self._about, BEGIN_SECONDS)
        self._host, self._pid = about["host"], about["pid"]
        if about["code"] != digest_of_package():
            raise UsageError(f"the machine {self._host} has other sources of flserver than this one")
        if not about["tokens"]:
            raise UsageError(f"the machine {self._host} is in the cluster without tokens (RAY_AUTH_MODE=token)")
        if (needed := len(self.part.members)) > (may := about["descriptors"]):
            raise UsageError(
                f"{self.part} needs {needed} descriptors, and a process of {self._host} has {may} for it: "
                "more --processes, or a higher ulimit -Hn where Ray is started there"
            )

    @contextmanager
    def _begins(self) -> Iterator[None]:
        try:
            yield
        except FlserverError as error:
            raise FleetError(
                f"{self.part} has not begun ({one_line(error)}): the cluster may have no room for so many --processes"
            ) from error

    def begin(self) -> None:
        """Have it play. Raises FleetError."""
        self._ask(BEGIN_SECONDS, "begin", self.part.to_line())

    def lines(self) -> Iterator[Line]:
        """What it says, to its end, by the clock of this machine. Raises FleetError."""
        over = False
        while not over:
            lines, over = self._ask(TAKE_SECONDS + GONE_SECONDS, "take", TAKE_SECONDS)
            for line in lines:
                yield line | {"at": monotonic()}  # clocks of two machines are never compared

    def _ask(self, seconds: float, method: str, *given: object) -> Any:
        try:
            return self._cluster.get(self._cluster.call(self._actor, method, *given), seconds)
        except FlserverError as error:  # it is gone, or says so
            raise FleetError(f"{self.part} which {self._host} plays, has failed: {one_line(error)}") from error

    def tell_to_end(self) -> None:
        self._cluster.kill(self._actor)

    def end(self) -> None:
        """It has ended, or is gone: Ray lets whoever asks it know."""

    def close(self) -> None:
        """There is nothing of it here."""
