"""With nodes any strategy makes the models that it makes on one machine: sums, in an order, of all updates."""

import itertools
from pathlib import Path

import pytest
import torch

from flserver import events as e
from flserver.aggregation import FedAvg, Strategy, load_strategy
from flserver.ingest import gathering
from flserver.models.state import State, state_of
from tests.ingest.on_threads import Called, OnThreads, on_one, shuffled
from tests.ingest.outcomes import decided, lost, moved, with_kept
from tests.ingest.several import Several
from tests.ingest.strategies import ALL, Clipped, InOrder, Median, Trimmed
from tests.ingest.sweep import CLIENTS, ROUNDS
from tests.patience import eventually

ON = list(itertools.product((1, 2, 4), (OnThreads, Called)))


@pytest.mark.parametrize("strategy", ALL)
@pytest.mark.parametrize("seed", range(2))
def test_the_models_are_those_of_one_machine(
    tmp_path: Path, strategy: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes, engine = ON[(seed * len(ALL) + ALL.index(strategy)) % len(ON)]
    monkeypatch.setattr(gathering, "AT_ONCE", 1 << 16)  # in several turns
    found = shuffled(tmp_path, nodes, seed, CLIENTS, ROUNDS, strategy=strategy, engine=engine)
    assert found == on_one(CLIENTS, ROUNDS, strategy)


@pytest.mark.parametrize("kind", [Median, InOrder, Clipped])
def test_without_an_engine_updates_come_by_the_line_one_at_a_time(tmp_path: Path, kind: type[Strategy]) -> None:
    with Several(tmp_path, 2, clients=3, strategy=kind) as several:
        alone, come = kind(), list[int]()
        alone.begin(several.exchange.model.state)
        adding = several.committer._strategy.add

        def add(update: State, n: int) -> None:
            come.append(sum(node.place.held._given is not None for node in several.nodes))
            adding(update, n)

        several.committer._strategy.add = add  # type: ignore[method-assign]
        peers = [several.peer(client, node) for client, node in (("c", 0), ("a", 1), ("b", 0))]
        states = {peer.client_id: moved(peer, by) for peer, by in zip(peers, (3.0, 1.0, 2.0), strict=True)}
        assert several.finish() == "completed"
        for client in "abc":
            alone.add(states[client], 10)
        expected = alone.finish()
        assert all(torch.equal(several.exchange.model.state[name], expected[name]) for name in expected)
        assert come == [0, 0, 0]
        eventually(lambda: not any(node.node._folding._counted for node in several.nodes))


@pytest.mark.parametrize("called", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_what_stayed_at_a_node_that_is_gone_is_lost_or_read_again_in_its_turn(
    tmp_path: Path, kept: bool, called: bool
) -> None:
    with Several(tmp_path, 2, clients=3, min_updates=1, strategy=InOrder, called=called) as several:
        if kept:
            with_kept(several, tmp_path)
        alone = InOrder()
        alone.begin(several.exchange.model.state)
        a, b, c = several.peer("a", 0), several.peer("b", 0), several.peer("c", 0)
        b.port = several.nodes[1].port
        states = {"b": moved(b, 2.0)}
        eventually(lambda: several.nodes[1].place.held.ids)
        several.nodes[1].cut()
        several.eventually_gone("node-2")
        states |= {"a": moved(a, 1.0), "c": moved(c, 3.0)}
        assert several.finish() == "completed"
        for client in "abc" if kept else "ac":
            alone.add(states[client], 10)
        expected = alone.finish()
        assert all(torch.equal(several.exchange.model.state[name], expected[name]) for name in expected)
        assert lost(several) == [("node-2", [] if kept else [("b", 1, 1)])]
        committed = several.recorder.of(e.RoundCommitted)[1]
        assert decided(committed) == {x: ("answered", kept or x != "b") for x in "abc"}


def test_a_node_may_go_while_updates_are_asked_for(tmp_path: Path) -> None:
    with Several(tmp_path, 2, clients=3, min_updates=1, strategy=Clipped, called=True) as several:
        alone = Clipped()
        alone.begin(several.exchange.model.state)
        adding = several.committer._strategy.add
        added: list[int] = []

        def add(update: State, n: int) -> None:
            adding(update, n)
            added.append(n)
            if len(added) == 1:
                several.nodes[1].cut()
                several.eventually_gone("node-2")

        several.committer._strategy.add = add  # type: ignore[method-assign]
        peers = {client: several.peer(client, node, n) for client, node, n in (("a", 1, 5), ("b", 1, 6), ("c", 0, 7))}
        states = {client: moved(peer, 1.0 + n) for n, (client, peer) in enumerate(peers.items())}
        assert several.finish() == "completed"
        assert added == [5, 7], "what it gave before it went is in the model"
        alone.add(states["a"], 5)
        alone.add(states["c"], 7)
        expected = alone.finish()
        assert all(torch.equal(several.exchange.model.state[name], expected[name]) for name in expected)
        assert lost(several) == [("node-2", [("b", 1, 1)])]


@pytest.mark.parametrize("part", ["cut", "made"])
@pytest.mark.parametrize("kind", [FedAvg, Median])
def test_a_node_may_go_while_the_others_wait_for_its_part(tmp_path: Path, kind: type[Strategy], part: str) -> None:
    with Several(tmp_path, 3, clients=3, min_updates=1, strategy=kind, called=True) as several:

        def goes(*_: object) -> State:
            several.nodes[1].cut()
            return {}

        setattr(several.nodes[1].node.making, part, goes)
        peers = [several.peer(client, node) for node, client in enumerate("abc")]
        states = [moved(peer, by) for peer, by in zip(peers, (1.0, 2.0, 6.0), strict=True)]
        assert several.finish() == "completed"
        alone = kind()
        alone.begin(states[0])
        for state in (states[0], states[2]):
            alone.add(state, 10)
        expected = alone.finish()
        assert all(torch.equal(several.exchange.model.state[name], expected[name]) for name in expected)
        assert lost(several) == [("node-2", [("b", 1, 1)])]


def test_suspects_that_do_not_count_are_in_no_model_and_nobody_waits_for_them(tmp_path: Path) -> None:
    with Several(tmp_path, 2, rounds=4, clients=3, max_update_norm="auto", strategy=Median, called=True) as several:
        a, b, c = several.peer("a"), several.peer("b", 1), several.peer("c", 1)
        for _ in range(3):
            for peer in (a, b, c):
                peer.answer(0.01)
        b.answer(1e9)
        states = [state_of(peer.answer(0.01)) for peer in (a, c)]
        assert several.finish() == "completed"
        assert [event.client_id for event in several.recorder.of(e.SuspectRejected)] == ["b"]
        expected = torch.stack([state["fc1.bias"] for state in states]).sort(dim=0).values[0]
        assert torch.equal(several.exchange.model.state["fc1.bias"], expected)


def test_what_a_strategy_raises_at_a_node_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def finish(self: Median) -> State:
        raise ValueError("no median of these")

    monkeypatch.setattr(Median, "finish", finish)
    monkeypatch.setattr(Median, "coordinatewise", True)
    with Several(tmp_path, 2, strategy=Median, called=True) as several:
        several.peer("a").answer(0.5)
        assert several.finish() == "failed"
        assert "the strategy failed: " in str(several.coordinator.error)
        assert "no median of these" in str(several.coordinator.error)


def test_updates_that_stay_at_a_node_are_counted_in_its_memory_until_the_round_is_made(tmp_path: Path) -> None:
    with Called(tmp_path, 1, 1, 2, strategy=f"{Median.__module__}:Median") as run:
        a, b = run.several.peer(0), run.several.peer(1)
        node = run.several.nodes[0].node
        moved(a, 0.5)
        eventually(lambda: run.several.nodes[0].place.held.ids)
        assert node._memory.in_use >= sum(tensor.nbytes for tensor in run.several.exchange.model.state.values())
        moved(b, 0.5)
        assert run.several.finish() == "completed"
        eventually(lambda: node._memory.in_use == 0)


@pytest.mark.parametrize(
    ("strategy", "by_range"),
    [("fedavg", False), *((one, one.rpartition(":")[2] in ("Median", "Trimmed", "InOrder")) for one in ALL[1:])],
)
def test_only_who_says_so_goes_by_ranges(strategy: str, by_range: bool) -> None:
    assert load_strategy(strategy).by_range == by_range


def test_who_changes_how_it_computes_has_to_say_it_again() -> None:
    class More(Trimmed):
        def add(self, update: State, n: int) -> None:
            super().add(update, n)

    class Again(More):
        coordinatewise = True

    assert (Trimmed().by_range, More().by_range, Again().by_range) == (True, False, True)
    assert not FedAvg().by_range
