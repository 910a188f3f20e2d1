"""Which node on Ray is gone: one that does not answer, not one that works for long. On threads, as in Ray's actors."""

import contextlib
import copy
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flserver.cluster.ray import ActorGone
from flserver.errors import FlserverError
from flserver.events import NodeEnded, NodeLost, NodeStarted
from flserver.ingest import told as t
from flserver.ingest.batches import BatchError, Item, to_bytes
from flserver.ingest.faults import NodesFault
from flserver.ingest.models import NodeModels
from flserver.ingest.node import Node
from flserver.models.state import state_of
from flserver.process.nodes.restarts import BURST, NONE_LEFT, TOO_OFTEN
from flserver.process.ray import line as ray_line
from flserver.process.ray import node as ray_node
from flserver.process.ray import nodes as ray_nodes
from flserver.process.ray.line import Line
from flserver.process.ray.node import RayNode
from tests.e2e.harness import Peer
from tests.ingest.at_desk import AtDesk, names
from tests.ingest.on_threads import Handle, OnThreads, changed
from tests.patience import PATIENCE, eventually
from tests.recorder import raising


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node is asked at once whether it is there."""
    monkeypatch.setattr(ray_line, "TAKE_SECONDS", 0.01)
    monkeypatch.setattr(ray_line, "SOON_SECONDS", 0.01)


def answered(peer: Peer, client: int) -> None:
    peer.upload(changed(state_of(peer.model()), client, 1))


def test_a_node_that_works_at_a_model_for_long_answers_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taking, begun, may = NodeModels.take, threading.Event(), threading.Event()
    told: list[bytes] = []
    giving = RayNode.give

    def take_model(models: NodeModels, said: t.Model) -> None:
        begun.set()
        assert may.wait(PATIENCE)
        taking(models, said)

    def give(node: RayNode, server: str, batch: bytes) -> None:
        giving(node, server, batch)
        told.append(batch)

    monkeypatch.setattr(NodeModels, "take", take_model)
    monkeypatch.setattr(RayNode, "give", give)
    with OnThreads(tmp_path, 1, 1, 1) as run:
        (port,) = run.ports()
        try:
            assert begun.wait(PATIENCE)
            (place,) = run.several.desk._places
            there = len(told)
            place.outbox.put(t.Room(0, 0))
            eventually(lambda: len(told) > there)
        finally:
            may.set()
        with Peer(port, 1).join() as peer:
            answered(peer, 1)
            peer.finished()
        assert run.several.finish() == "completed"
        assert not run.several.recorder.of(NodeLost)


@pytest.mark.usefixtures("soon")
def test_a_call_may_take_as_long_as_the_node_says_that_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taking, asked = RayNode.take, threading.Semaphore(0)
    there = RayNode.is_there

    def take(node: RayNode, server: str, seconds: float) -> tuple[bytes, bool]:
        batch, over = taking(node, server, seconds)
        if batch:
            asked.acquire(timeout=PATIENCE)
        return batch, over

    def is_there(node: RayNode) -> bool:
        asked.release()
        return there(node)

    monkeypatch.setattr(RayNode, "take", take)
    monkeypatch.setattr(RayNode, "is_there", is_there)
    with OnThreads(tmp_path, 2, 1, 1) as run:
        with Peer(run.ports()[0], 1).join() as peer:
            answered(peer, 1)
            peer.finished()
        assert run.several.finish() == "completed"
        assert not run.several.recorder.of(NodeLost)


@pytest.mark.usefixtures("soon")
def test_a_node_that_answers_nothing_is_gone_and_another_comes(tmp_path: Path) -> None:
    with OnThreads(tmp_path, 1, 1, 1) as run:
        run.ports()
        eventually(lambda: all(place.ready for place in run.several.desk._places))
        hangs = run.threads.actors["node-1"]
        hangs.hangs = True
        assert run.nodes.serving == 1
        (port,) = eventually(lambda: run.threads.actors["node-1"] is not hangs and run.ports())
        assert hangs.dead
        eventually(lambda: run.nodes.serving == 1)
        (gone,) = run.several.recorder.of(NodeLost)
        assert (gone.node, gone.reason) == ("node-1", "it has not answered within 8 s")
        with Peer(port, 1).join() as peer:
            answered(peer, 1)
            peer.finished()
        assert run.several.finish() == "completed"


@pytest.mark.usefixtures("soon")
def test_a_node_that_makes_its_model_may_answer_nothing_for_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    making, may = ray_node.make_model, threading.Event()

    def make_model(*given: Any) -> None:
        assert may.wait(PATIENCE)
        making(*given)

    monkeypatch.setattr(ray_node, "make_model", make_model)
    with OnThreads(tmp_path, 1, 1, 1) as run:
        run.ports()
        run.threads.actors["node-1"].hangs = True
        try:
            (gone,) = eventually(lambda: run.several.recorder.of(NodeLost))
            assert gone.reason == "it has not answered within 120 s"
        finally:
            may.set()


def test_a_node_that_cannot_take_what_it_is_told_says_so_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    giving, broken = Node.give, list[Node]()

    def give(node: Node, batch: bytes) -> None:
        if not broken or node in broken:
            broken.append(node)
            raise BatchError("no batch of this version's")
        giving(node, batch)

    monkeypatch.setattr(Node, "give", give)
    with OnThreads(tmp_path, 1, 1, 1) as run:
        (port,) = eventually(lambda: names(run.several.desk) == ["node-2"] and run.ports())
        (gone,) = run.several.recorder.of(NodeLost)
        assert gone.reason.startswith("what it was told could not be taken: BatchError(")
        with Peer(port, 1).join() as peer:
            answered(peer, 1)
            peer.finished()
        assert run.several.finish() == "completed"


@pytest.mark.parametrize("number", [1, 2])
def test_a_node_without_memory_for_its_range_is_lost_and_the_others_make_the_model(tmp_path: Path, number: int) -> None:
    """Its own range fails, and those of which it was to give its part."""
    with OnThreads(tmp_path, 3, 1, 3, min_updates=1) as run:
        ports = run.ports()
        short = run.threads.actors[f"node-{number}"].kept
        short._served.node.making._range = raising(MemoryError("no room"))  # type: ignore[method-assign,union-attr]
        peers = [run.several._peers.enter_context(Peer(port, client)).join() for client, port in enumerate(ports)]
        for client, peer in enumerate(peers):
            answered(peer, client)
        assert run.several.finish() == "completed"
        (gone,) = run.several.recorder.of(NodeLost)
        assert (gone.node, gone.reason, len(gone.updates)) == (short._name, "MemoryError: no room", 1)


@pytest.mark.parametrize("part", ["cut", "made"])
def test_a_node_that_does_not_end_its_part_is_lost_though_it_is_there(tmp_path: Path, part: str) -> None:
    """What waits for its part is not to blame."""
    with OnThreads(tmp_path, 3, 1, 3, min_updates=1) as run:
        ports = run.ports()
        stuck = run.threads.actors["node-2"]
        stuck.hangs_at = part
        peers = [run.several._peers.enter_context(Peer(port, client)).join() for client, port in enumerate(ports)]
        for client, peer in enumerate(peers):
            answered(peer, client)
        assert run.several.finish() == "completed"
        (gone,) = run.several.recorder.of(NodeLost)
        assert (gone.node, gone.reason) == (stuck.kept._name, "it has not done its part within 600 s")
        assert len(gone.updates) == 1


@pytest.mark.parametrize("method", ["where", "begin", "take", "give", "model"])
def test_an_error_of_rays_own_costs_a_node_and_another_comes(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_nodes, "PAUSE_SECONDS", 0.0)
    run, fails = OnThreads(tmp_path, 1, 1, 1), iter([True])
    calling, named = run.threads.call, "node-1" if method == "where" else "node-2"

    def call(handle: Handle, called: str, *given: object) -> Any:
        if called == method and next(fails, False):
            raise RuntimeError("its object store is full")
        return calling(handle, called, *given)

    monkeypatch.setattr(run.threads, "call", call)
    with run:
        (port,) = eventually(lambda: names(run.several.desk) == [named] and run.ports())
        assert next(fails, False) is False
        with Peer(port, 1).join() as peer:
            answered(peer, 1)
            peer.finished()
        assert run.several.finish() == "completed"


def test_what_would_fail_at_any_node_costs_the_run(tmp_path: Path) -> None:
    with OnThreads(tmp_path, 2, 1, 1) as run:
        ports = run.ports()
        for handle in run.threads.actors.values():
            handle.kept._served.node.making._range = raising(ValueError("a defect"))  # type: ignore[method-assign,union-attr]
        with Peer(ports[0], 1).join() as peer:
            answered(peer, 1)
            assert run.several.finish() == "failed"
        assert "a defect" in str(run.several.coordinator.error)
        assert not run.several.recorder.of(NodeLost)


def test_a_nodes_fault_is_the_same_where_it_comes_from_another_process() -> None:
    again = copy.copy(NodesFault("node-3", "no room"))  # by what pickle does too
    assert (type(again), again.node, str(again)) == (NodesFault, "node-3", "no room")


class Scripted:
    """A cluster and the one actor there, whose calls are their own answers; a test says which come."""

    def __init__(self) -> None:
        self.late, self.asked, self.killed = 0, list[str](), False

    def call(self, actor: object, method: str, *given: object) -> object:
        return given

    def answered(self, reference: object, seconds: float) -> bool:
        self.late -= 1
        return self.late < 0

    def get(self, reference: object, seconds: float) -> object:
        return reference

    def kill(self, actor: object) -> None:
        self.killed = True


def test_a_node_that_takes_nothing_for_long_is_gone_though_it_answers() -> None:
    with AtDesk() as at:
        cluster = Scripted()
        line = Line(cluster, cluster, "machine", at.place, "a server")  # type: ignore[arg-type]
        cluster.late = 3
        assert line._answer((1,), most=PATIENCE) == (1,)
        cluster.late = 3
        with pytest.raises(ActorGone, match="it has taken nothing of what it was told for 0 s"):
            line._answer((1,), most=0.0)


def test_a_line_keeps_nothing_of_what_was_said_while_it_waits_for_more() -> None:
    with AtDesk() as at:
        said, told = memoryview(to_bytes([Item(t.Ended(1))])), memoryview(to_bytes([Item(t.Room(1, 1))]))
        heard, taken, over = weakref.ref(said), weakref.ref(told), threading.Event()
        answers: list[tuple[memoryview, bool]] = [(said, False)]
        batches = [told]
        del said, told
        waits = [threading.Event(), threading.Event()]

        class Waits(Scripted):
            """It says one thing, and is told one."""

            def get(self, reference: Any, seconds: float) -> object:
                if reference != ("a server", ray_line.TAKE_SECONDS):
                    return None
                if answers:
                    return answers.pop()
                waits[0].set()
                assert over.wait(PATIENCE)
                raise ActorGone("the test is over")

        def take(seconds: float) -> memoryview | bytes:
            if batches:
                return batches.pop()
            waits[1].set()
            assert over.wait(PATIENCE)
            return b""

        at.place.take = take  # type: ignore[method-assign,assignment]
        line = Line(Waits(), Waits(), "machine", at.place, "a server")  # type: ignore[arg-type]
        served = threading.Thread(target=suppressed, args=(line.serve,))
        served.start()
        try:
            assert all(event.wait(PATIENCE) for event in waits)
            assert (heard(), taken()) == (None, None)
        finally:
            over.set()
            served.join()


def suppressed(call: Callable[[], object]) -> None:
    with contextlib.suppress(FlserverError):
        call()


# --- the end ---------------------------------------------------------------------------------------------------------


def test_a_server_that_ends_while_a_node_is_being_started_ends_that_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_nodes, "LOOK_SECONDS", 0.01)
    run = OnThreads(tmp_path, 1, 1, 1)
    run.threads.made_hanging = True
    with run:
        starting = eventually(lambda: run.threads.actors.get("node-1"))
        eventually(lambda: starting.unanswered)
    assert starting.dead
    assert not run.several.recorder.of(NodeLost)


def test_a_node_that_has_begun_as_the_server_ends_serves_nobody(tmp_path: Path) -> None:
    run, ends = OnThreads(tmp_path, 1, 1, 1), list[bool]()

    def stop() -> None:
        stops = threading.Thread(target=run.nodes.stop_accepting)
        stops.start()
        stops.join(PATIENCE)
        ends.append(not stops.is_alive())

    run.several.recorder.before[NodeStarted] = stop  # there may be no room in the record for long
    with run:
        eventually(lambda: not run.nodes.accepting)
    assert ends == [True]
    assert [ended.node for ended in run.several.recorder.of(NodeEnded)] == ["node-1"]
    assert not run.several.recorder.of(NodeLost)
    assert run._said == []
    assert run.threads.actors["node-1"].dead


def test_a_run_whose_nodes_cannot_be_started_ends_once_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray_nodes, "PAUSE_SECONDS", 0.0)
    run = OnThreads(tmp_path, 2, 1, 1)
    monkeypatch.setattr(run.threads, "make", raising(ActorGone("there is no machine for it")))
    with run:
        eventually(lambda: not run.nodes.accepting)
        assert run.nodes.serving == 0
        assert run._said == [NONE_LEFT]
    assert caplog.text.count("is gone: there is no machine for it") == 2 * BURST, "of two, each as often"
    assert {f"slot {slot}: {TOO_OFTEN}" for slot in (1, 2)} <= set(caplog.messages)
