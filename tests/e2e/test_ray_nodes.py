"""Rounds over ingest nodes on a Ray cluster: the same model as without, a node that is killed, a server that is."""

from pathlib import Path

import pytest
import torch

from tests.e2e.harness import FAST, Peer, ServerProcess
from tests.ray_cluster import RayCluster

pytestmark = pytest.mark.ray
ROUNDS = 3


def changed(model: torch.nn.Module, client: int, round: int) -> torch.nn.Module:
    numbers = torch.Generator().manual_seed(100 * round + client)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=numbers) * 10.0 ** (client - 3))
    return model


def digests(folder: Path, *options: str, env: dict[str, str] | None = None) -> list[str]:
    """The models' digests of a run of three clients."""
    folder.mkdir()
    with ServerProcess(folder, "--num-rounds", str(ROUNDS), "--min-clients", "3", *FAST, *options, env=env) as server:
        peers = [Peer(server, client, 10 + client).join() for client in (1, 2, 3)]
        for round in range(1, ROUNDS + 1):
            for peer, client in zip(peers, (1, 2, 3), strict=True):
                peer.upload(changed(peer.model(), client, round))
        for peer in peers:
            peer.finished()
            peer.connection.close()
        assert server.exit_code() == 0, server.log
        return [digest for (digest,) in server.sql("SELECT model_digest FROM v1_rounds ORDER BY round")]


def test_the_models_are_the_same_bits_on_as_many_nodes(tmp_path: Path, ray_cluster: RayCluster) -> None:
    alone = digests(tmp_path / "alone")
    assert len(set(alone)) == ROUNDS + 1
    on_ray = "--ray-address", ray_cluster.address
    assert digests(tmp_path / "two", "--ingest", "2", *on_ray, env=ray_cluster.env) == alone
