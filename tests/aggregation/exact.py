"""What a mean is, by the definition: rational arithmetic, rounded once. Nothing of the server's is used."""

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from hypothesis import strategies as st

from flserver.aggregation import State

FORMATS = {torch.float16: (11, -24), torch.bfloat16: (8, -133), torch.float32: (24, -149), torch.float64: (53, -1074)}
"""Bits of a significand, and the exponent of the smallest number."""

Member = tuple[State, int]
"""An update and its samples."""


def nearest(value: Fraction, dtype: torch.dtype) -> float:
    """The number of ``dtype`` that is nearest, ties to even; below zero what is too small is −0.0."""
    precision, lowest = FORMATS[dtype]
    unit = Fraction(2) ** lowest
    while abs(value) >= unit * 2**precision:
        unit *= 2
    return math.copysign(float(round(abs(value) / unit) * unit), value)  # round() goes to even


def mean(members: Sequence[Member], name: str) -> torch.Tensor:
    """What the tensor of that name has to be."""
    like, total = members[0][0][name], sum(n for _, n in members)
    columns = zip(*(update[name].reshape(-1).tolist() for update, _ in members), strict=True)
    weights = [n for _, n in members]
    found = [
        nearest(sum((n * Fraction(value) for n, value in zip(weights, column, strict=True)), Fraction(0)) / total, d)
        for d, column in ((like.dtype, column) for column in columns)
    ]
    return torch.tensor(found, dtype=torch.float64).to(like.dtype).view(like.shape)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether the two are equal to the last bit, the sign of a zero included."""
    flat = [tensor.reshape(-1).contiguous().view(torch.uint8) for tensor in (one, other)]
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(*flat)


def _of_bits(dtype: torch.dtype) -> st.SearchStrategy[float]:
    """Any finite number that may count, every exponent as often as every other."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    info = torch.iinfo(kind)
    number = st.integers(info.min, info.max).map(lambda bits: float(torch.tensor(bits, dtype=kind).view(dtype)))
    return number.filter(lambda value: math.isfinite(value) and abs(value) <= 2.0**970)


NUMBERS = {
    dtype: _of_bits(dtype)
    | st.integers(-4, 4).map(float)
    | st.sampled_from([0.0, -0.0, 0.1, 1 / 3, 2.0**lowest, -(2.0**lowest)]).map(
        lambda value, dtype=dtype: float(torch.tensor(value, dtype=torch.float64).to(dtype))
    )
    for dtype, (_, lowest) in FORMATS.items()
}
SAMPLES = st.sampled_from([1, 2, 2**29 - 1]) | st.integers(1, 2**29 - 1)


@st.composite
def members(draw: st.DrawFn) -> list[Member]:
    """Updates of a model with a tensor or two, of one dtype or two, and an integer one."""
    shapes = draw(st.lists(st.sampled_from([(), (1,), (5,), (2, 3), (0,)]), min_size=1, max_size=3))
    dtypes = [draw(st.sampled_from(list(FORMATS))) for _ in shapes]

    def tensor(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
        count = math.prod(shape)
        values = draw(st.lists(NUMBERS[dtype], min_size=count, max_size=count))
        return torch.tensor(values, dtype=dtype).view(shape)

    def update() -> State:
        floats = {str(i): tensor(d, s) for i, (d, s) in enumerate(zip(dtypes, shapes, strict=True))}
        return floats | {"n": torch.tensor(draw(st.integers(0, 2)))}

    drawn = [(update(), draw(SAMPLES)) for _ in range(draw(st.integers(1, 6)))]
    if draw(st.booleans()):  # something cancels
        negated = {k: -t if t.is_floating_point() else t for k, t in drawn[0][0].items()}
        drawn.append((negated, drawn[0][1]))
    return drawn


def zeros(like: State) -> State:
    """The model that was sent."""
    return {name: torch.zeros_like(tensor) for name, tensor in like.items()}
