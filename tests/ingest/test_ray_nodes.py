"""Nodes as Ray would have them, but on threads: the same bits, one that dies, what an earlier server left."""

import threading
from pathlib import Path
from unittest import mock

import pytest

from flserver.aggregation import FedAvg
from flserver.cluster.ray import ActorGone
from flserver.errors import StoreError
from flserver.events import ClientLeft
from flserver.process.ray import nodes as ray_nodes
from flserver.process.ray.models import RayModels
from flserver.process.ray.node import RayNode
from tests.e2e.harness import Peer
from tests.ingest.at_desk import names
from tests.ingest.on_threads import OnThreads, Threads, changed, initial, on_one, shuffled
from tests.ingest.sweep import CLIENTS, NODES, ROUNDS
from tests.patience import DEADLINE, PATIENCE, eventually
from tests.recorder import raising

SHUFFLES = 10  # a tenth of ops/sweep-nodes


@pytest.mark.parametrize("seed", range(SHUFFLES))
def test_the_models_are_the_same_bits_on_any_nodes(tmp_path: Path, seed: int) -> None:
    assert shuffled(tmp_path, NODES[seed % len(NODES)], seed, CLIENTS, ROUNDS) == on_one(CLIENTS, ROUNDS)


def test_what_makes_more_of_a_sum_than_its_mean_is_the_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def finish(*_: object) -> None:
        raise AssertionError("a node made the new model")

    monkeypatch.setattr(FedAvg, "finishes_anywhere", False)
    monkeypatch.setattr(RayModels, "finish", finish)
    assert shuffled(tmp_path, 2, 0, CLIENTS, ROUNDS) == on_one(CLIENTS, ROUNDS)


def test_in_the_place_of_a_node_that_died_there_is_another_and_the_round_goes_on(tmp_path: Path) -> None:
    with OnThreads(tmp_path, 2, 1, 2) as run:
        ports = run.ports()
        peers = [run.several._peers.enter_context(Peer(port, client)).join() for client, port in enumerate(ports)]
        models = [peer.model() for peer in peers]
        dead = run.threads.actors["node-1"]
        run.threads.kill(dead)
        eventually(lambda: run.threads.actors["node-1"] is not dead)
        there = run.ports()
        assert names(run.several.desk)[1:] == ["node-3"]
        # Whose node died first: with the other's answer nobody would be there to be waited for.
        (gone,) = run.several.recorder.wait_for(ClientLeft)
        for client in sorted(range(2), key=lambda client: str(client) != gone.client_id):
            peers[client].port = there[0]
            peers[client].upload(models[client])
        assert run.several.finish() == "completed"


def test_a_server_that_stops_does_not_wait_for_a_cluster_without_a_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, over, told = threading.Event(), threading.Event(), threading.Event()

    def hangs(name: str) -> None:
        asked.set()
        over.wait(DEADLINE)
        told.set()
        raise ActorGone("its head is gone")

    with OnThreads(tmp_path, 2, 1, 2) as run:
        run.ports()
        monkeypatch.setattr(run.threads, "find", hangs)
        run.threads.kill(run.threads.actors["node-1"])
        assert asked.wait(PATIENCE), "another is looked for in its place"
        run.threads.is_gone = True
    assert not told.is_set()
    over.set()
    for actor in run.threads.actors.values():
        run.threads.kill(actor)


@pytest.mark.parametrize("fails", ["machine", "watch", "take_over"])
def test_a_server_that_cannot_go_on_with_what_another_left_leaves_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """What watches the cluster's head would keep the process."""
    staying = mock.Mock()
    run, watched, left = OnThreads(tmp_path, 1, 1, 1, staying=staying), list[bool](), list[bool]()
    leave = run.threads.leave

    def fail(*_: object) -> None:
        watched.append(run.threads.watched)
        raise StoreError("it does not answer")

    def leaves() -> None:
        leave()
        left.append(run.threads.watched)

    monkeypatch.setattr(run.threads, "leave", leaves)
    if fails == "take_over":
        monkeypatch.setattr(ray_nodes, "take_over", fail)
    else:
        monkeypatch.setattr(Threads, fails, property(fail) if fails == "machine" else fail)
    with run._stack, run.several:
        with pytest.raises(StoreError):
            run.nodes.start()
        assert (watched, left, run.nodes.accepting) == ([fails == "take_over"], [False], False)
    assert staying.method_calls == [mock.call.close()]


def test_a_server_whose_nodes_cannot_be_ended_leaves_the_cluster(tmp_path: Path) -> None:
    with OnThreads(tmp_path, 1, 1, 1) as run:
        run.ports()
        run.threads.find = raising(ValueError("a defect"))  # type: ignore[method-assign]
        with pytest.raises(ValueError, match="a defect"):
            run.nodes.close(0.0)
        assert not run.threads.watched
        for actor in run.threads.actors.values():
            run.threads.kill(actor)


def test_an_earlier_servers_processes_are_used_again_or_ended(tmp_path: Path) -> None:
    run = OnThreads(tmp_path, 1, 1, 1)
    kind: type[RayNode] = ray_nodes.RayNode
    left, other = run.threads.make(kind, "node-1"), run.threads.make(kind, "node-7")
    with run:
        (port,) = run.ports()
        assert run.threads.actors["node-1"] is left
        assert (left.dead, other.dead) == (False, True)
        with Peer(port, 1).join() as peer:
            peer.upload(changed(initial().state_dict(), 1, 1))
            peer.model()
