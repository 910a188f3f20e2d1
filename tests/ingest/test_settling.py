"""An attempt is settled once: what counts is in the new model, or lost, whoever goes while that is made."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from flserver import events as e
from flserver.aggregation import FedAvg
from flserver.ingest.held import Kept
from flserver.models.state import State
from tests.ingest.outcomes import decided, lost, moved, with_kept
from tests.ingest.several import Several
from tests.patience import PATIENCE, eventually


def finishing(several: Several, during: Callable[[int], None]) -> list[list[str]]:
    """Let the nodes make the new state, each of its sum, and do something during each call, which has a number from 1.
    Returns whom the calls named."""
    calls: list[list[str]] = []

    def finish(round: int, attempt: int, names: Sequence[str], turns: int) -> State:
        calls.append(list(names))
        whole = FedAvg()
        whole.begin(several.exchange.model.state)
        for node in several.nodes:
            if node.name in names:
                strategy = node.node._folding.strategy
                assert strategy is not None
                whole.merge(strategy.partial())
        during(len(calls))
        return whole.finish()

    engine = several.engine
    assert engine is not None
    engine.finish = finish  # type: ignore[method-assign]
    return calls


def mean(states: Sequence[State]) -> torch.Tensor:
    whole = FedAvg()
    whole.begin(states[0])
    for state in states:
        whole.add(state, 10)
    return whole.finish()["fc1.weight"]


@pytest.mark.parametrize("kept", [False, True], ids=["lost", "kept"])
@pytest.mark.parametrize("dies", [0, 1, 2])
def test_a_node_goes_between_the_new_state_and_its_settlement(tmp_path: Path, dies: int, kept: bool) -> None:
    with Several(tmp_path, 3, clients=3, min_updates=1, called=True) as several:
        if kept:
            with_kept(several, tmp_path)
        name = several.nodes[dies].name

        def during(call: int) -> None:
            if call == 1:
                several.nodes[dies].cut()
                several.eventually_gone(name)

        calls = finishing(several, during)
        peers = [several.peer(client, node) for node, client in enumerate("abc")]
        states = [moved(peer, by) for peer, by in zip(peers, (1.0, 2.0, 6.0), strict=True)]
        assert several.finish() == "completed"
        others = [f"node-{number}" for number in (1, 2, 3) if number != dies + 1]
        assert calls == [["node-1", "node-2", "node-3"]] + ([] if kept else [others])
        assert lost(several) == [(name, [] if kept else [("abc"[dies], 1, 1)])]
        committed = several.recorder.of(e.RoundCommitted)[1]
        assert decided(committed) == {x: ("answered", kept or n != dies) for n, x in enumerate("abc")}
        counted = [state for number, state in enumerate(states) if kept or number != dies]
        assert torch.equal(several.exchange.model.state["fc1.weight"], mean(counted))


def test_what_is_added_again_meanwhile_is_waited_for(tmp_path: Path) -> None:
    with Several(tmp_path, 2, clients=2, called=True) as several:
        with_kept(several, tmp_path)
        adding, made = threading.Event(), threading.Event()
        finishing(several, lambda call: made.set())
        add_again = several.desk.add_again

        def slowly(kept: Kept) -> bool:
            adding.set()
            made.wait(0.3)  # it is not made: who cannot wait for this has so long to make it
            return add_again(kept)

        several.desk.add_again = slowly  # type: ignore[method-assign]
        a, b = several.peer("a"), several.peer("b", node=1)
        states = [moved(b, 0.25)]
        eventually(lambda: several.nodes[1].place.held.ids)
        gathers, gathering = several.committer._gathers, threading.Event()

        def gather(*given: object) -> State | None:
            several.nodes[1].cut()
            assert adding.wait(PATIENCE)
            gathering.set()
            return gathers(*given)  # type: ignore[arg-type]

        several.committer._gathers = gather
        states.append(moved(a, 0.5))
        assert several.finish() == "completed"
        assert gathering.is_set()
        assert torch.equal(several.exchange.model.state["fc1.weight"], mean(states))


def test_a_sum_of_other_updates_than_those_that_count_is_used_by_nobody(tmp_path: Path) -> None:
    with Several(tmp_path, 2, clients=2, min_updates=1) as several:
        a, b = several.peer("a"), several.peer("b", node=1)
        gathers = several.committer._gathers

        def gather(*given: object) -> State | None:
            several.nodes[1].node._folding._folded = 0
            return gathers(*given)  # type: ignore[arg-type]

        several.committer._gathers = gather
        moved(b, 0.25)
        mine = moved(a, 0.5)
        assert several.finish() == "completed"
        (gone,) = several.recorder.of(e.NodeLost)
        assert (gone.node, gone.reason) == ("node-2", "it has folded 0 updates, and 1 count")
        committed = several.recorder.of(e.RoundCommitted)[1]
        assert decided(committed) == {"a": ("answered", True), "b": ("answered", False)}
        assert torch.equal(several.exchange.model.state["fc1.weight"], mine["fc1.weight"])


def test_a_node_that_cannot_fold_what_waited_there_costs_the_run(tmp_path: Path) -> None:
    with Several(tmp_path, 2, rounds=4, clients=3, min_updates=1, max_update_norm="auto") as several:
        a, b, c = several.peer("a"), several.peer("b", node=1), several.peer("c", node=1)
        for _ in range(3):
            for peer in (a, b, c):
                peer.answer(0.01)

        def fold(ids: object) -> None:
            raise ValueError("a defect")

        several.nodes[1].node._folding.fold = fold  # type: ignore[method-assign]
        b.answer(1e9)
        c.answer(1e9)
        a.answer(0.01)
        assert several.finish() == "failed"
        assert "ValueError: a defect" in str(several.coordinator.error)
        assert several.exchange.model.round == 3
        (aborted,) = several.recorder.of(e.AttemptAborted)
        assert aborted.reason == "failed"


def test_a_node_that_is_ready_while_a_round_is_committed_waits_for_the_next_attempt(tmp_path: Path) -> None:
    with Several(tmp_path, 1, rounds=2) as several:
        a = several.peer("a")
        late = several.add(prepared=False)
        several.nodes.append(late)
        several.recorder.wait_for(e.AttemptStarted, count=2)
        meanwhile, came = several.committer._meanwhile, threading.Event()
        be_ready = several.desk.be_ready

        def ready(*given: Any) -> None:
            be_ready(*given)
            came.set()

        several.desk.be_ready = ready  # type: ignore[method-assign]

        def then(state: State) -> None:
            meanwhile(state)
            if not came.is_set():
                late.prepare()
                assert came.wait(PATIENCE)

        several.committer._meanwhile = then
        moved(a, 0.5)
        a.port = late.port
        last = moved(a, 0.25)
        assert several.finish() == "completed"
        assert torch.equal(several.exchange.model.state["fc1.weight"], last["fc1.weight"])


def test_a_sum_is_kept_no_longer_than_it_takes_to_merge_it(tmp_path: Path) -> None:
    with Several(tmp_path, 3, clients=3) as several:
        here: list[int] = []
        merging = several.committer._strategy.merge

        def merge(part: State) -> None:
            sums = [node.place.held._sum for node in several.nodes]
            here.append(sum(one is not None and one.given is not None for one in sums))
            merging(part)

        several.committer._strategy.merge = merge  # type: ignore[method-assign]
        peers = [several.peer(client, node) for node, client in enumerate("abc")]
        for peer in peers:
            moved(peer, 0.5)
        assert several.finish() == "completed"
        assert here == [2, 1, 0]
