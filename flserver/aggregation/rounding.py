"""One rounding of an exact quotient, in the ways that a tensor's dtype asks for.

float32 and float64 take the nearest number, ties to even. What is narrower is first rounded *to odd* in float32, which
has more than two bits to spare, and then by torch to the nearest: to odd says that something was cut off, so the second
rounding is as good as one (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using
rounding to odd", 2008).
"""

import math
from fractions import Fraction
from typing import Literal

import torch

Way = Literal["nearest 32", "odd 32", "nearest 64"]
"""To what a quotient is rounded: to float32 or float64, how."""

WAYS: dict[torch.dtype, Way] = {
    torch.float64: "nearest 64",
    torch.float32: "nearest 32",
    torch.float16: "odd 32",
    torch.bfloat16: "odd 32",
}


def way_of(dtype: torch.dtype) -> Way:
    """How a mean of this dtype is rounded. Raises KeyError for one that has no mean."""
    return WAYS[dtype]


def rounded(value: Fraction, way: Way) -> float:
    """The number that ``value`` is rounded to; an exact zero is +0.0."""
    precision, lowest = (53, -1074) if way == "nearest 64" else (24, -149)
    if value == 0:
        return 0.0
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    unit = max(exponent - precision + 1, lowest)
    scaled = size / Fraction(2) ** unit
    whole, rest = divmod(scaled.numerator, scaled.denominator)
    if way == "odd 32":
        whole |= rest != 0
    else:
        whole += 2 * rest > scaled.denominator or (2 * rest == scaled.denominator and whole % 2)
    return math.copysign(math.ldexp(whole, unit), value)
