"""The models that a soak's rounds must have made, bit for bit, of what its honest trainers sent: pure."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch

from flserver.models.checkpoint_format import serialize

State = Mapping[str, torch.Tensor]
GRID = 2.0**12

ACCEPTED = """
    SELECT r.round, r.model_digest, u.client_id, u.counted_size FROM v1_rounds AS r JOIN v1_updates AS u
    ON u.run_id = r.run_id AND u.answers_round = r.round AND u.answers_attempt = r.attempt AND u.decision = 'accepted'
    WHERE r.status = 'committed' AND r.round > 0"""


def on_grid(module: torch.nn.Module) -> torch.nn.Module:
    """The module with parameters of few bits, so that a weighted sum of several is exact in float64."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_((parameter * GRID).round() / GRID)
    return module


def digest(state: State) -> str:
    """That of the checkpoint with these tensors."""
    found = hashlib.sha256()
    for piece in serialize(dict(state), {}):
        found.update(piece)
    return f"sha256:{found.hexdigest()}"


def mean(states: Mapping[str, State], counted: Mapping[str, int]) -> State:
    """The FedAvg of the clients ``counted``, with so many samples each. One division, for the sum is exact."""
    names, total = next(iter(states.values())), sum(counted.values())
    sums = {name: sum(states[client][name].double() * n for client, n in counted.items()) for name in names}
    return {name: (torch.as_tensor(value) / total).float() for name, value in sums.items()}


def judge_models(rows: Iterable[tuple[int, str, str, int]], sent: Mapping[str, State]) -> list[str]:
    """A line for each committed round (``ACCEPTED``'s rows) whose model is another than the mean of what the honest
    have ``sent``, by client id, or that took an update of somebody else."""
    rounds: dict[tuple[int, str], dict[str, int]] = defaultdict(dict)
    for round, model_digest, client_id, counted_size in rows:
        rounds[round, model_digest][client_id] = counted_size
    expected: dict[tuple[tuple[str, int], ...], str] = {}
    found = []
    for (round, model_digest), counted in sorted(rounds.items()):
        if strange := sorted(counted.keys() - sent.keys()):
            found.append(f"round {round} accepted an update of {', '.join(strange)}")
            continue
        key = tuple(sorted(counted.items()))
        if key not in expected:
            expected[key] = digest(mean(sent, counted))
        if model_digest != expected[key]:
            found.append(f"round {round} is not the mean of what {', '.join(client for client, _ in key)} sent")
    return found
