"""Rounds over nodes: the same bits as without them, wherever a trainer comes, and what becomes of one that is gone."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from flserver import events as e
from flserver.aggregation import FedAvg
from flserver.models.state import State, state_of
from tests.e2e.harness import Peer
from tests.ingest.several import Several

CLIENTS, ROUNDS = 6, 10


def changed(model: nn.Module, client: int, round: int) -> nn.Module:
    """What a client makes of a round's model: numbers of its own size, and counters that differ."""
    numbers = torch.Generator().manual_seed(1000 * round + client)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=numbers) * 10.0 ** (client - 3))
        model.seen.add_(torch.randint(0, 3, model.seen.shape, generator=numbers))
    return model


def uploaded(peer: Peer, port: int, model: nn.Module) -> None:
    """Answer at another node than the one where the trainer registered."""
    home, peer.port = peer.port, port
    peer.upload(model)
    peer.port = home


def run_with(folder: Path, nodes: int, seed: int) -> list[State]:
    """The models of a run whose trainers come to nodes, and answer, in an order that ``seed`` shuffles."""
    chance, models = random.Random(seed), []
    with Several(folder, nodes, ROUNDS, clients=CLIENTS) as several:
        peers = [several.peer(client, chance.randrange(nodes), 10 + client) for client in range(CLIENTS)]
        for round in range(1, ROUNDS + 1):
            given = [peer.model() for peer in peers]
            models.append(state_of(given[0]))
            with ThreadPoolExecutor(CLIENTS) as pool:
                uploads = [
                    pool.submit(uploaded, peers[client], several.port(chance), changed(given[client], client, round))
                    for client in chance.sample(range(CLIENTS), CLIENTS)
                ]
            for upload in uploads:
                upload.result()
        for peer in peers:
            peer.finished()
        assert several.finish() == "completed"
        committed = several.recorder.of(e.RoundCommitted)
        assert [len([o for o in done.outcomes if o.update_id]) for done in committed] == [0] + [CLIENTS] * ROUNDS
        models.append(several.exchange.model.state)
        assert several.exchange.model.digest == committed[-1].model_digest
    return models


class Twice(FedAvg):
    """One whose new model is not just the mean."""

    def finish(self) -> State:
        return {name: tensor * 2 for name, tensor in super().finish().items()}


@pytest.mark.parametrize("strategy", [FedAvg, Twice])
def test_one_node_that_has_all_of_a_round_makes_its_mean_unless_there_is_more_to_it(
    tmp_path: Path, strategy: type[FedAvg]
) -> None:
    with Several(tmp_path, 1) as several:
        several.committer._strategy, merged = strategy(), list[State]()
        merging = several.committer._strategy.merge

        def merge(part: State) -> None:
            merged.append(part)
            merging(part)

        several.committer._strategy.merge = merge  # type: ignore[method-assign]
        mine = state_of(several.peer("a").answer(0.5))
        assert several.finish() == "completed"
        assert len(merged) == (strategy is Twice)
        expected = mine["fc1.weight"] * (2 if strategy is Twice else 1)
        assert torch.equal(several.exchange.model.state["fc1.weight"], expected)


def test_a_partial_sum_that_is_merged_is_what_was_added_there() -> None:
    state = state_of(Several.initial())
    strategies = [FedAvg() for _ in range(3)]
    for strategy in strategies:
        strategy.begin(state)
    for number in range(4):
        update = state_of(changed(Several.initial(), number, 1))
        for strategy in (strategies[0], strategies[1 + number % 2]):
            strategy.add(update, 10 + number)
    strategies[1].merge(strategies[2].partial())
    whole, merged = strategies[0].finish(), strategies[1].finish()
    assert all(torch.equal(whole[name], merged[name]) for name in whole)


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_however_many_nodes_and_wherever_trainers_come_the_models_are_the_same_bits(tmp_path: Path, nodes: int) -> None:
    models = run_with(tmp_path, nodes, seed=nodes)
    module = Several.initial()
    for round, model in enumerate(models):
        state = state_of(module)
        assert all(torch.equal(model[name], state[name]) for name in state), f"round {round}"
        if round == ROUNDS:
            break
        alone = FedAvg()
        alone.begin(state)
        for client in range(CLIENTS):
            again = Several.initial()
            again.load_state_dict(state)
            alone.add(state_of(changed(again, client, round + 1)), 10 + client)
        module.load_state_dict(alone.finish())
