"""A node that is gone: its trainers are drop-outs that may come back elsewhere, what it alone had folded is lost, and
the round goes on without it."""

import itertools
import threading
from pathlib import Path

import pytest
import torch

from flserver import events as e
from flserver.models.state import State
from flserver.process.nodes import called as called_nodes
from flserver.process.nodes.calls import CallFailed
from tests.e2e.harness import closed
from tests.ingest.outcomes import decided, lost, moved
from tests.ingest.several import Several
from tests.patience import PATIENCE, eventually


def same(one: State, other: State) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_round_goes_on_without_what_only_a_node_that_is_gone_had(tmp_path: Path) -> None:
    with Several(tmp_path, 2, rounds=2, clients=3, min_updates=1) as several:
        a, b, c = several.peer("a"), several.peer("b"), several.peer("c", node=1)
        b.port = several.nodes[1].port  # it registered at the one that stays, and answers at the other
        mine = moved(a, 0.5)
        moved(b, 0.25)
        c.model()
        several.recorder.wait_for(e.UpdateReceived, count=2)
        several.nodes[1].cut()
        committed = several.recorder.wait_for(e.RoundCommitted, count=2)[1]
        assert closed(c.connection)
        assert lost(several) == [("node-2", [("b", 1, 1)])]
        assert decided(committed) == {"a": ("answered", True), "b": ("answered", False), "c": ("dropped", False)}
        assert same(several.exchange.model.state, mine)
        assert [(left.client_id, left.reason) for left in several.recorder.of(e.ClientLeft)] == [("c", "node")]
        kinds = [type(event) for event in several.recorder.events]
        assert kinds.index(e.NodeLost) < kinds.index(e.RoundCommitted, kinds.index(e.NodeLost))
        back = several.peer("c")
        b.port = several.nodes[0].port
        for peer in (a, b):
            moved(peer, 0.125)
        back.finished()  # it came in the middle of the round, and is invited to the next one, which there is not
        assert several.finish() == "completed"
        assert decided(several.recorder.of(e.RoundCommitted)[2]) == {"a": ("answered", True), "b": ("answered", True)}


@pytest.mark.parametrize("needed", [1, 2])
def test_a_node_may_go_while_the_sums_are_brought_together(tmp_path: Path, needed: int) -> None:
    with Several(tmp_path, 2, clients=2, min_updates=needed, round_attempts=2) as several:
        a, b = several.peer("a"), several.peer("b", node=1)
        asked, gone = threading.Event(), threading.Event()
        strategy = several.nodes[1].node._folding.strategy
        assert strategy is not None

        def partial() -> State:
            asked.set()
            assert gone.wait(PATIENCE)
            return {}

        strategy.partial = partial  # type: ignore[method-assign]
        mine = moved(a, 0.5)
        moved(b, 0.25)
        assert asked.wait(PATIENCE)
        several.nodes[1].cut()
        several.eventually_gone("node-2")
        gone.set()
        assert lost(several) == [("node-2", [("b", 1, 1)])]
        if needed == 1:
            committed = several.recorder.wait_for(e.RoundCommitted, count=2)[1]
            assert decided(committed) == {"a": ("answered", True), "b": ("answered", False)}
            assert same(several.exchange.model.state, mine)
        else:
            (aborted,) = several.recorder.wait_for(e.AttemptAborted)
            assert (aborted.reason, decided(aborted)["a"]) == ("quorum", ("answered", True))
            back = several.peer("b")
            moved(a, 0.5)
            moved(back, 0.5)
            a.finished()
        assert several.finish() == "completed"


def test_what_a_node_gave_before_it_went_is_in_the_model(tmp_path: Path) -> None:
    with Several(tmp_path, 2, clients=2) as several:
        a, b = several.peer("a"), several.peer("b", node=1)
        merging = several.committer._strategy.merge
        merged: list[State] = []

        def merge(part: State) -> None:
            several.nodes[1].cut()
            several.eventually_gone("node-2")
            merged.append(part)
            merging(part)

        several.committer._strategy.merge = merge  # type: ignore[method-assign]
        moved(a, 0.5)
        moved(b, 0.5)
        committed = several.recorder.wait_for(e.RoundCommitted, count=2)[1]
        assert decided(committed) == {"a": ("answered", True), "b": ("answered", True)}
        assert lost(several) == [("node-2", [])]
        assert len(merged) == 2
        assert several.finish() == "completed"


def test_a_node_that_cannot_take_a_model_is_gone_although_it_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, first = called_nodes._blobs, itertools.count()

    def blobs(*given: object) -> object:
        if next(first) == 0:
            raise CallFailed("no memory to map it")
        return there(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(called_nodes, "_blobs", blobs)
    with Several(tmp_path, 1, called=True) as several:
        several.eventually_gone("node-1")
        (gone,) = several.recorder.wait_for(e.NodeLost)
        assert gone.reason == "it could not take a model: no memory to map it"
        several.nodes.append(several.add())
        several.peer("a", node=1).answer(0.5)
        assert several.finish() == "completed"


def test_all_that_a_node_had_ends_on_record_with_it(tmp_path: Path) -> None:
    with Several(tmp_path, 2, clients=2) as several:
        a, b = several.peer("a"), several.peer("b", node=1)
        b.model()
        several.recorder.wait_for(e.MessageSent, count=4)  # two answers and two models
        several.nodes[1].cut()
        (closing,) = several.recorder.wait_for(e.ConnectionClosed)
        opened = {event.connection_id: event for event in several.recorder.of(e.ConnectionOpened)}
        there = opened[closing.connection_id]
        assert (there.node, closing.purpose, closing.client_id) == ("node-2", "register", "b")
        said = [event for event in several.recorder.events if getattr(event, "connection_id", 0) == there.connection_id]
        received = sum(event.bytes for event in said if isinstance(event, e.MessageReceived))
        sent = sum(event.bytes for event in said if isinstance(event, e.MessageSent))
        assert (closing.bytes_in, closing.bytes_out) == (received, sent) != (0, 0)
        assert several.exchange.registered("b")[1] is False
        assert eventually(lambda: several.nodes[0].node._door.registered_peers()[1][1] is False)
        moved(a, 1.0)
        back = several.peer("b")
        for peer in (a, back):
            moved(peer, 0.0)
        assert several.finish() == "completed"


def test_a_node_that_comes_in_the_middle_of_a_round_takes_part_in_it(tmp_path: Path) -> None:
    with Several(tmp_path, 1, clients=2) as several:
        a, b = several.peer("a"), several.peer("b")
        models = [peer.model() for peer in (a, b)]
        late = several.add()
        several.nodes.append(late)
        for peer, model in zip((a, b), models, strict=True):
            peer.port = late.port
            peer.upload(model)
        assert several.finish() == "completed"
        nodes = {event.node for event in several.recorder.of(e.ConnectionOpened)}
        assert nodes == {"node-1", "node-2"}


def test_who_registers_where_the_model_is_not_known_yet_is_sent_it_when_it_is(tmp_path: Path) -> None:
    with Several(tmp_path, 1, clients=2) as several:
        late = several.add(prepared=False)
        several.nodes.append(late)
        a, b = several.peer("a"), several.peer("b", node=1)
        model = a.model()
        several.recorder.wait_for(e.AttemptStarted, count=2)
        late.prepare()
        moved(b, 0.5)
        a.upload(model)
        assert several.finish() == "completed"
