"""Updates that are folded as they arrive, by a real server with a strategy of the operator's own."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from tests import sums
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, NeuralNet, Peer

ORDERS: Sequence[Sequence[int]] = [(0, 1, 2), (2, 1, 0), (1, 2, 0)]


def net(value: int) -> NeuralNet:
    """Numbers whose sum does not fit in 24 bits, each different from its neighbour's."""
    module = NeuralNet()
    with torch.no_grad():
        for parameter in module.parameters():
            numbers = torch.arange(parameter.numel(), dtype=torch.float64) * (2**21 + value) % 2**24
            parameter.copy_(numbers.view(parameter.shape))
    return module


def test_in_any_order_of_arrival_the_same_updates_give_the_same_bits(
    tmp_path: Path, start: Start, join: Callable[..., list[Peer]]
) -> None:
    (tmp_path / "sums.py").write_text(Path(sums.__file__).read_text(encoding="utf-8"))
    server = start("--num-rounds", "4", "--min-clients", "3", "--strategy", "sums:AnyOrder", *FAST)
    peers = join(server, "a", "b", "c")
    nets = [net(value) for value in (1, 12, 123)]
    for order in ORDERS:
        for peer in peers:
            peer.model()
        for place in order:
            peers[place].upload(nets[place])
    for peer in peers:
        peer.model()
    with ThreadPoolExecutor(3) as pool:  # all at once
        list(pool.map(Peer.upload, peers, nets))
    for peer in peers:
        peer.finished()
    assert server.exit_code() == 0
    rounds = server.sql("SELECT model_digest, updates_accepted FROM v1_rounds WHERE round > 0 ORDER BY round")
    assert rounds == [(rounds[0][0], 3)] * 4
    came = server.sql("SELECT client_id FROM v1_updates ORDER BY answers_round, received_at LIMIT 9")
    assert [client for (client,) in came] == ["abc"[place] for order in ORDERS for place in order]
