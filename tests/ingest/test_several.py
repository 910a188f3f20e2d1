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
