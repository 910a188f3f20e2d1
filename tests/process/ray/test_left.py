"""What the next server of a run asks of the nodes that an earlier one left, some of which do not answer any more."""

from typing import Any

import pytest

from flserver.cluster.ray import ActorGone
from flserver.process.ray import left
from flserver.settings import server_settings

NODES = tuple(f"node-{slot}" for slot in range(1, 6))


class Gone:
    """A cluster of which one machine is lost: all nodes but the last one were there, and whoever asks one of them waits
    for as long as it likes to."""

    machine = "here"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.killed, self.asked = 0.0, list[str](), list[str]()
        monkeypatch.setattr("flserver.clock.monotonic", lambda: self.now)
        monkeypatch.setattr(left, "Cluster", lambda address, run_id: self)

    def names(self) -> list[str]:
        return [*NODES]

    def find(self, name: str) -> "Actor":
        return Actor(self, name)

    def kill(self, actor: "Actor") -> None:
        self.killed.append(actor.name)

    def get(self, name: str, seconds: float) -> dict[str, Any]:
        assert self.asked == [*NODES], "all are asked before any is waited for"
        if name != NODES[-1]:
            self.now += seconds
            raise ActorGone("its machine is lost")
        return {"code": "ours", "holds": {}, "answered": {}, "machine": "here", "port": 5000}


class Actor:
    """Any call of it is answered with its name."""

    def __init__(self, cluster: Gone, name: str) -> None:
        self.cluster, self.name = cluster, name

    def __getattr__(self, method: str) -> "Actor":
        return self

    def remote(self, *given: object) -> str:
        self.cluster.asked.append(self.name)
        return self.name


def test_nodes_whose_machine_is_lost_are_waited_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Gone(monkeypatch)
    found = left.take_over(cluster, "the next one", NODES, "ours", lambda round: ())  # type: ignore[arg-type]
    assert found == left.LeftOver(machines=frozenset({"here"})), "the last one, which answers, is heard too"
    assert sorted(cluster.killed) == [*NODES[:-1]]
    assert cluster.now == left.HAND_ON_SECONDS


def test_so_they_are_where_it_is_asked_whether_the_port_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Gone(monkeypatch)
    settings = server_settings({"ray_address": "127.0.0.1:1", "ingest": 5, "server_port": 5000})
    assert left.keep_port(settings, "run")
    assert cluster.now == left.SERVES_SECONDS
