"""What three clients train in a run, which is the same whoever serves them, and the models that come of it."""

from contextlib import ExitStack
from pathlib import Path

import torch

from tests.e2e.harness import FAST, Peer, ServerProcess

ROUNDS = 3


def changed(model: torch.nn.Module, client: int, round: int) -> torch.nn.Module:
    """What a client makes of a round's model."""
    numbers = torch.Generator().manual_seed(100 * round + client)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=numbers) * 10.0 ** (client - 3))
    return model


def digests(folder: Path, *options: str, env: dict[str, str] | None = None) -> list[str]:
    """The models' digests of a run of three clients."""
    folder.mkdir()
    usual = ("--num-rounds", str(ROUNDS), "--min-clients", "3", *FAST)
    with ServerProcess(folder, *usual, *options, env=env) as server, ExitStack() as stack:
        peers = [stack.enter_context(Peer(server, client, 10 + client)).join() for client in (1, 2, 3)]
        try:
            for round in range(1, ROUNDS + 1):
                for peer, client in zip(peers, (1, 2, 3), strict=True):
                    peer.upload(changed(peer.model(), client, round))
            for peer in peers:
                peer.finished()
        except AssertionError as error:
            raise AssertionError(server.log) from error
        assert server.exit_code() == 0, server.log
        return [digest for (digest,) in server.sql("SELECT model_digest FROM v1_rounds ORDER BY round")]
