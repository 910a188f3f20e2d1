"""What the next server of a run asks of the nodes that an earlier one left, some of which do not answer any more."""

from dataclasses import dataclass
from typing import Any

import pytest

from flserver.cluster.ray import ActorGone, ActorLate
from flserver.process.ray import left
from flserver.settings import server_settings
from tests.patience import PATIENCE

NODES = tuple(f"node-{slot}" for slot in range(1, 6))


class Gone:
    """A cluster of which one machine is lost: all nodes but the last one were there, and whoever asks one of them waits
    for as long as it likes to. The last one is another server's that it is ``told`` to stay with; it is ``late`` at
    these calls, once each."""

    machine = "here"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, told: list[bool], *late: str) -> None:
        self.late = [*late]
        self.now, self.killed, self.asked, self.told = 0.0, list[str](), list[Asked](), told
        self.stayed = list[object]()
        monkeypatch.setattr("flserver.clock.monotonic", lambda: self.now)
        monkeypatch.setattr(left, "Cluster", lambda address, run_id: self)
        monkeypatch.setattr(left, "digest_of_package", lambda: "ours")

    def names(self) -> list[str]:
        return [*NODES]

    def find(self, name: str) -> "Actor":
        return Actor(name)

    def call(self, actor: "Actor", method: str, *given: object) -> "Asked":
        self.asked.append((actor.name, method, given))
        return self.asked[-1]

    def kill(self, actor: "Actor") -> None:
        self.killed.append(actor.name)

    def get(self, asked: "Asked", seconds: float) -> Any:
        name, method, given = asked
        if name == NODES[-1] and method in self.late:
            self.late.remove(method)
            self.now += seconds
            raise ActorLate("it is slow now")
        if method == "stay":
            self.stayed.append((name, *given))
            if not self.told:
                raise ActorGone("its process died")
            return self.told.pop(0)
        assert {one[0] for one in self.asked} == {*NODES}, "all are asked before any is waited for"
        if name != NODES[-1]:
            self.now += seconds
            raise ActorGone("its machine is lost")
        if method == "serves":
            return "the one before"
        return {"code": "ours", "holds": {}, "answered": {}, "machine": "here", "port": 5000}


Asked = tuple[str, str, tuple[object, ...]]


@dataclass
class Actor:
    name: str


def test_nodes_whose_machine_is_lost_are_waited_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Gone(monkeypatch, [])
    found = left.take_over(cluster, "the next one", NODES, "ours", lambda round: ())  # type: ignore[arg-type]
    assert found == left.LeftOver(machines=frozenset({"here"})), "the last one, which answers, is heard too"
    assert sorted(cluster.killed) == [*NODES[:-1]]
    assert cluster.now == left.HAND_ON_SECONDS


def test_so_they_are_where_they_are_told_to_stay_until_somebody_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Gone(monkeypatch, [True, True, False])
    monkeypatch.setattr(left, "STAY_SECONDS", 0.0)
    settings = server_settings({"ray_address": "127.0.0.1:1", "ingest": 5, "server_port": 5000})
    staying = left.Staying(settings, "run")
    staying._thread.join(PATIENCE)
    assert staying.has_port
    assert cluster.now == left.SERVES_SECONDS
    assert (cluster.stayed, cluster.told) == ([(NODES[-1], "the one before")] * 3, [])
    staying.close()


def test_nobody_is_told_to_stay_once_the_server_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Gone(monkeypatch, [True] * 2)
    monkeypatch.setattr(left, "STAY_SECONDS", PATIENCE)
    staying = left.Staying(server_settings({"ray_address": "127.0.0.1:1", "ingest": 5}), "run")
    staying.end()
    staying._thread.join(PATIENCE)
    assert not staying._thread.is_alive()
    assert (staying.has_port, len(cluster.told)) == (False, 1)


@pytest.mark.parametrize("last", [[], [False]], ids=["until it is gone", "until somebody has it"])
@pytest.mark.parametrize("late", ["where", "serves", "stay"])
def test_a_node_that_is_slow_once_is_told_all_the_same(
    monkeypatch: pytest.MonkeyPatch, late: str, last: list[bool]
) -> None:
    cluster = Gone(monkeypatch, [True, *last], late)
    monkeypatch.setattr(left, "STAY_SECONDS", 0.0)
    settings = server_settings({"ray_address": "127.0.0.1:1", "ingest": 5, "server_port": 5000})
    staying = left.Staying(settings, "run")
    staying._thread.join(PATIENCE)
    assert not staying._thread.is_alive()
    assert (cluster.late, cluster.told, staying.has_port) == ([], [], True)
    assert cluster.stayed == [(NODES[-1], "the one before")] * 2
