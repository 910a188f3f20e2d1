"""From one model to the next: how far, and how far along another such step. Pure."""

import math
from dataclasses import dataclass

import torch

from flserver.aggregation import kernel
from flserver.models.state import State

CHUNK = 1 << 18  # elements widened at a time


@dataclass(frozen=True)
class Step:
    """How the model that is sent came of the one ``before``: the L2 ``norm`` of their difference, over all
    floating-point tensors, is above 0 and finite."""

    before: State
    norm: float


def step_of(before: State, after: State) -> Step | None:
    """The step from one model to the next of the same names, shapes and dtypes; None where it has no direction."""
    floating = [name for name, tensor in after.items() if tensor.is_floating_point()]
    norm = math.sqrt(sum(distances(after[name], before[name], before[name])[0] for name in floating))
    return Step(before, norm) if 0 < norm < math.inf else None


def cosine(product: float, one: float, other: float) -> float | None:
    """Of the angle between two vectors by their inner product and their norms: −1 to 1, and None where there is none,
    or their numbers are too large for float64."""
    if not (0 < one < math.inf and 0 < other < math.inf and math.isfinite(product)):
        return None
    return max(-1.0, min(1.0, product / one / other))


def distances(given: torch.Tensor, sent: torch.Tensor, before: torch.Tensor) -> tuple[float, float]:
    """Σ (given − sent)² and Σ (given − sent)·(sent − before) in float64; ``sent`` and ``before`` have one dtype. The
    first is not finite where any element of ``given`` is not."""
    loops = kernel.load()
    if given.dtype == sent.dtype and given.itemsize >= 4:
        return loops.distances(given.contiguous(), sent.contiguous(), before.contiguous())
    flat = [tensor.reshape(-1) for tensor in (given, sent, before)]
    square = product = 0.0
    for start in range(0, given.numel(), CHUNK):  # so that a large model needs no second copy
        more = loops.distances(*(tensor[start : start + CHUNK].to(torch.float64) for tensor in flat))
        square, product = square + more[0], product + more[1]
    return square, product
