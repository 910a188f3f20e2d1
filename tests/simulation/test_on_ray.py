"""Parts of a fleet as Ray would have them, but on threads: what they say, and whom a machine is refused for."""

import socket
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from flserver.cluster.ray import ActorGone
from flserver.errors import UsageError
from flserver.settings import hosts
from flserver.simulation import on_ray
from flserver.simulation.on_ray import PartOnRay, check_reachable, players
from flserver.simulation.parts import FleetError, split
from flserver.simulation.ray_part import RayPart
from flserver.simulation.script import Shares, make
from flserver.sources import digest_of_package
from tests.recorder import raising

ABOUT = {"machine": "m", "host": "10.0.0.2", "pid": 7, "tokens": True, "descriptors": 100, "code": digest_of_package()}
NOBODY: hosts.Address = (socket.AF_INET, ("127.0.0.1", 1))


class Actor:
    """It is on the machine that ``about`` tells of."""

    def __init__(self, about: Mapping[str, Any]) -> None:
        self._kept, self._about, self.dead = RayPart(), about, False

    def answer(self, method: str, *given: object) -> Any:
        return self._about if method == "where" else getattr(self._kept, method)(*given)


class OnThreads:
    """``ray_cluster.Cluster``'s part."""

    machine = "m"
    takes_no: str | None = None
    """What Ray does not take."""

    def __init__(self, **about: object) -> None:
        self.machines = {"m": "10.0.0.2"}
        self._about = ABOUT | about
        self.made: list[Actor] = []

    def make_own(self, kind: type) -> Actor:
        assert kind is RayPart
        self.made.append(Actor(self._about))
        return self.made[-1]

    def call(self, actor: Actor, method: str, *given: object) -> Callable[[], Any]:
        if method == self.takes_no:
            raise ActorGone("Ray says: its object store is full")
        return lambda: actor.answer(method, *given)

    def get(self, asked: Callable[[], Any], seconds: float) -> Any:
        return asked()

    def kill(self, actor: Actor) -> None:
        actor.dead = True


def begun(cluster: Any, trainers: int = 4, parts: int = 2, said: list[str] | None = None) -> list[PartOnRay]:
    members = make(trainers, 1, 0, Shares())
    return players(cluster, split(members, parts, NOBODY, ports=30_000), (said if said is not None else []).append)


def test_each_part_plays_its_trainers_and_says_what_they_met_by_the_clock_of_who_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    one, other = begun(OnThreads(), said=said)
    monkeypatch.setattr(on_ray, "monotonic", lambda: -5.0)
    for part in (one, other):
        (line,) = part.lines()
        assert (line["at"], line["notes"]) == (-5.0, {"Connection refused": 2})
    assert said == ["part 1 (process 7 on 10.0.0.2): 2 trainers", "part 2 (process 7 on 10.0.0.2): 2 trainers"]


@pytest.mark.parametrize(
    ("about", "why"),
    [
        ({"code": "sha256:0"}, "the machine 10.0.0.2 has other sources of flserver than this one"),
        ({"tokens": False}, r"the machine 10.0.0.2 is in the cluster without tokens \(RAY_AUTH_MODE=token\)"),
        ({"descriptors": 1}, r"2 trainers \(1, 3\), needs 2 descriptors, and a process of 10.0.0.2 has 1 for it"),
    ],
)
def test_a_machine_that_cannot_play_is_refused(about: dict[str, object], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        begun(OnThreads(**about))


def test_a_part_that_fails_or_does_not_begin_is_named_with_its_trainers(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise UsageError("there is no data set of that name")

    monkeypatch.setattr("flserver.simulation.ray_part.crowd_of", fails)
    cluster = OnThreads()
    part, _ = begun(cluster)
    failed = r"part 1 of 2 .*, 2 trainers \(1, 3\), which 10.0.0.2 plays, has failed: there is no data set"
    with pytest.raises(FleetError, match=failed):
        list(part.lines())
    part.tell_to_end()
    assert [actor.dead for actor in cluster.made] == [True, False]

    def late(*_: object) -> None:
        raise ActorGone("it has not answered within 120 s")

    monkeypatch.setattr(OnThreads, "get", late)
    with pytest.raises(FleetError, match=r"2 trainers \(1, 3\), has not begun \(it has not answered within 120 s\)"):
        begun(OnThreads())


@pytest.mark.parametrize(
    ("method", "why"),
    [("make_own", "has not begun"), ("where", "has not begun"), ("begin", "has failed"), ("take", "has failed")],
)
def test_a_part_that_ray_takes_nothing_for_is_named_too(monkeypatch: pytest.MonkeyPatch, method: str, why: str) -> None:
    cluster = OnThreads()
    cluster.takes_no = method
    if method == "make_own":
        monkeypatch.setattr(cluster, method, raising(ActorGone("Ray says: its object store is full")))
    with pytest.raises(FleetError, match=rf"^part 1 of 2 .*, 2 trainers \(1, 3\), .*{why}.*its object store is full"):
        list(begun(cluster)[0].lines())


def test_loopback_is_no_address_of_a_server_for_trainers_of_several_machines() -> None:
    cluster: Any = OnThreads()
    check_reachable(cluster, NOBODY, "the server")
    cluster.machines["other"] = "10.0.0.3"
    check_reachable(cluster, (socket.AF_INET, ("10.0.0.2", 1)), "the server")
    with pytest.raises(UsageError, match=r"is on this machine's loopback, where the trainers on 10\.0\.0\.3"):
        check_reachable(cluster, NOBODY, "the server")
