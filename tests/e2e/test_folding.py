"""Updates that are folded as they arrive by a real server: with a strategy of the operator's own, and where the sum has
no room for what somebody sends."""

import resource
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
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


class Magnitudes(NeuralNet):
    """Near to any model, and of so many magnitudes that exact sums of it take several times the usual memory."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            for parameter in self.parameters():
                numbers = np.ldexp(np.float32(1.1), -(np.arange(parameter.numel()) % 149))
                parameter.copy_(torch.from_numpy(numbers).view(parameter.shape))


def test_an_update_that_the_sum_has_no_room_for_is_rejected_and_the_round_goes_on(
    start: Start, join: Callable[..., list[Peer]]
) -> None:
    """Memory has room for the usual sum; no file can be as long as what one of it and more would take."""
    few = ("--num-rounds", "3", "--min-clients", "3", "--min-updates", "2", "--receive-memory", "1")
    server = start(*few, *FAST)
    longest = 20 * 32 * 1024 - 1  # bytes: what a small sum grows by takes one more
    server.wait_for_line("listening")
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (longest, longest))
    a, b, hostile = join(server, "a", "b", "hostile")
    expected: dict[str, torch.Tensor] | None = None
    for _ in range(3):
        hostile.model()
        hostile.upload(Magnitudes())
        models = [honest.answer(0.25) for honest in (a, b)]
        if expected is not None:
            for name, tensor in models[0].state_dict().items():
                assert torch.equal(tensor, expected[name] + 0.25), "the mean of two equal models is that model"
        expected = models[0].state_dict()
    for peer in (a, b, hostile):
        peer.finished()
    assert server.exit_code() == 0, server.log
    rejected = server.sql("SELECT decision, reason FROM v1_updates WHERE client_id = 'hostile'")
    assert len(rejected) == 3
    assert all(decision == "rejected" and reason.startswith("size: its numbers") for decision, reason in rejected)
    assert server.sql("SELECT updates_accepted FROM v1_rounds WHERE round > 0") == [(2,)] * 3
