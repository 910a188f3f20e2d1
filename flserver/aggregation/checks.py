"""What is checked of an update before it may count, and what is measured of it. Pure."""

import math
from collections.abc import Collection, Mapping
from functools import lru_cache

import blake3
import torch

from flserver.aggregation.steps import Step, cosine, distances
from flserver.events.words import rejected as rejected
from flserver.frozen import frozen
from flserver.models.norms import Norms as Norms
from flserver.models.state import State, raw_bytes

LARGEST = 2.0**970  # the largest float64 that is averaged: _values says why
LONG = 256  # characters of a name, of which nothing is kept: a peer may have chosen it
VARIANCE = "running_var"  # what BatchNorm, in all its kinds, calls it


@frozen()
class Inspection:
    """What came of looking at an update's values.

    ``rejection`` is None, or the reason for rejecting the update, which begins with its ``RejectedKind``; then there
    are no ``norms``. ``cosine`` is from −1 to 1, of the angle between the update's own step and the last round's; None
    where there is none.
    """

    rejection: str | None
    norms: Norms | None
    cosine: float | None = None


def inspect(
    update: State,
    global_state: State,
    tied: Mapping[str, str],
    buffers: Collection[str] = frozenset(),
    step: Step | None = None,
) -> Inspection:
    """Hold an update that fits against ``global_state``, the model that was sent out. Neither is changed.

    ``tied`` maps each later name of a tensor that has several in the model to its first one: the two are equal there,
    so they must be equal in the update. ``buffers`` are the names of tensors that are no parameters; ``step`` is how
    the model that was sent came of the one before.
    """
    rejection = _values(update) or _tied(update, tied)
    if rejection is not None:
        return Inspection(rejection, None)
    squares, product = [0.0, 0.0], 0.0
    for name, sent in global_state.items():
        if sent.is_floating_point():
            given = update[name]
            distance, along = distances(given, sent, sent if step is None else step.before[name])
            if not math.isfinite(distance) and not bool(torch.isfinite(given).all()):
                return Inspection(rejected("non_finite", f"{name} holds NaN or infinity"), None)
            if has_negative_variance(name, given) and not has_negative_variance(name, sent):
                return Inspection(rejected("other", f"{name} holds a negative variance"), None)
            squares[name in buffers] += distance
            product += along
    norms = Norms(*map(math.sqrt, squares))
    return Inspection(None, norms, None if step is None else cosine(product, norms.whole, step.norm))


def has_negative_variance(name: str, tensor: torch.Tensor) -> bool:
    """Whether a tensor of that name is a running variance and holds a negative number: BatchNorm then gives NaN."""
    return name.rpartition(".")[2] == VARIANCE and tensor.numel() > 0 and float(tensor.min()) < 0


def implausible(state: State) -> str | None:
    """Why a new model cannot be meant, whatever strategy made it; None where nothing is wrong with it."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and tensor.numel():
            low, high = map(float, tensor.aminmax())  # both are NaN where there is one
            if not math.isfinite(low) or not math.isfinite(high):
                return f"{name} holds NaN or infinity"
            if has_negative_variance(name, tensor):
                return f"{name} holds a negative variance"
    return None


def state_digest(state: State) -> str:
    """``blake3:hex`` over each tensor's name, dtype, shape and little-endian values in row-major order, the tensors in
    ascending order of their names."""
    digest = blake3.blake3()
    for name in sorted(state):
        tensor = state[name]
        digest.update((_head if len(name) < LONG else _head.__wrapped__)(name, tensor.dtype, tensor.shape))
        if tensor.numel():
            digest.update(raw_bytes(tensor))
    return "blake3:" + digest.hexdigest()


@lru_cache(4096)
def _head(name: str, dtype: torch.dtype, shape: torch.Size) -> bytes:
    """What is digested before a tensor's values: the same for each update of a model, so it is kept."""
    kind = str(dtype).removeprefix("torch.")
    head = f"{name}\0{kind}\0{'x'.join(map(str, shape))}\0".encode("utf-8", "surrogatepass")
    return len(head).to_bytes(8, "little") + head


def _values(update: State) -> str | None:
    """Values that fit the dtype's bytes and yet cannot be averaged."""
    for name, tensor in update.items():
        # Σ nᵢ·wᵢ must stay finite for a million clients of 2²⁹ samples, or one client's update would be everybody's.
        if tensor.dtype == torch.float64 and tensor.numel() and LARGEST < float(tensor.abs().max()) < math.inf:
            return rejected("other", f"{name} holds values too large to be averaged")
        # A byte that is neither 0 nor 1 is no boolean, and what torch makes of it is undefined.
        if tensor.dtype == torch.bool and tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
            return rejected("other", f"{name} holds bytes that are neither true nor false")
    return None


def _tied(update: State, tied: Mapping[str, str]) -> str | None:
    for name, first in tied.items():
        one, other = update[name], update[first]
        same_memory = one.data_ptr() == other.data_ptr() and one.stride() == other.stride()
        if not same_memory and not torch.equal(one, other):
            return rejected("other", f"{name} and {first} share their weights in the model, but differ in the update")
    return None
