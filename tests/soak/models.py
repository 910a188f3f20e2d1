"""The models that a soak's rounds must have made, bit for bit, of what its trainers sent: pure."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median_low

import torch

from flserver.aggregation.checks import state_digest
from flserver.models.checkpoint_format import serialize

State = Mapping[str, torch.Tensor]
Sent = Mapping[str, State]  # by the digest of an update
GRID = 2.0**12

ACCEPTED = """
    SELECT r.round, r.model_digest, u.client_id, u.update_digest, u.counted_size
    FROM v1_rounds AS r JOIN v1_updates AS u
    ON u.run_id = r.run_id AND u.answers_round = r.round AND u.answers_attempt = r.attempt AND u.decision = 'accepted'
    WHERE r.status = 'committed' AND r.round > 0"""


def on_grid(module: torch.nn.Module) -> torch.nn.Module:
    """The module with parameters of few bits, so that a weighted sum of several is exact in float64."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_((parameter * GRID).round() / GRID)
    return module


def by_digest(*states: State) -> dict[str, State]:
    return {state_digest(dict(state)): state for state in states}


def digest(state: State) -> str:
    """That of the checkpoint with these tensors."""
    found = hashlib.sha256()
    for piece in serialize(dict(state), {}):
        found.update(piece)
    return f"sha256:{found.hexdigest()}"


def combined(updates: Sequence[tuple[State, int]]) -> State:
    """What FedAvg makes of ``updates``, each with its samples: the mean of floats, one division, for the sum is exact;
    of all else the lower median, each update counted once (of booleans, of which no two are as many, the majority)."""
    total, model = sum(size for _, size in updates), {}
    for name, like in updates[0][0].items():
        if like.is_floating_point():
            weighted = sum(state[name].double() * size for state, size in updates)
            model[name] = (torch.as_tensor(weighted) / total).float()
        else:
            columns = zip(*(state[name].flatten().tolist() for state, _ in updates), strict=True)
            model[name] = torch.tensor([median_low(c) for c in columns], dtype=like.dtype).view(like.shape)
    return model


def astray(model: State, honest: Sequence[State]) -> list[str]:
    """The tensors that are no floats and hold a value below, or above, all that the ``honest`` sent."""
    found = []
    for name, tensor in model.items():
        if not tensor.is_floating_point():
            theirs = torch.stack([state[name].long() for state in honest])
            if (tensor.long() < theirs.amin(0)).any() or (tensor.long() > theirs.amax(0)).any():
                found.append(name)
    return found


def judge_models(
    rows: Iterable[tuple[int, str, str, str, int]], sent: Mapping[str, Sent], honest: Sequence[State]
) -> list[str]:
    """A line for each committed round (``ACCEPTED``'s rows) whose model is another than what becomes of what clients
    have ``sent``, by their ids, that took an update that is none of these, or that let one of them have an index, a
    counter or a boolean that none of the ``honest`` has, although more than half of the round's updates were theirs."""
    rounds: dict[tuple[int, str], list[tuple[str, str, int]]] = defaultdict(list)
    for round, model_digest, *update in rows:
        rounds[round, model_digest].append((update[0], update[1], update[2]))
    expected: dict[tuple[tuple[str, str, int], ...], tuple[str, list[str]]] = {}
    found = []
    for (round, model_digest), updates in sorted(rounds.items()):
        if strange := sorted({client for client, update, _ in updates if update not in sent.get(client, {})}):
            found.append(f"round {round} accepted an update of {', '.join(strange)}")
            continue
        key = tuple(sorted(updates))
        if key not in expected:
            model = combined([(sent[client][update], size) for client, update, size in key])
            sound = sum(any(sent[client][update] is state for state in honest) for client, update, _ in key)
            # The lower median is of those who are more than half: of two and two it is the lower pair's.
            expected[key] = digest(model), astray(model, honest) if 2 * sound > len(key) else []
        right, wrong = expected[key]
        if model_digest != right:
            found.append(f"round {round} is not the mean of what {', '.join(client for client, *_ in key)} sent")
        found += [f"round {round} has a {name} that no honest trainer sent" for name in wrong]
    return found
