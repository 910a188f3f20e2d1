"""How far an update is from the model, compiled by numba: one pass over both."""

# mypy: ignore-errors
# Compiled, not run: numba infers the types, and has none for mypy.

import numpy as np
from numba import carray, njit

from flserver.aggregation.compiled import OPTIONS, _float32_at, _float64_at

LANES = 64  # sums side by side, so that the order is fixed and yet many numbers go at a time


@njit(**OPTIONS)
def _add_squares(one, other, lanes):
    whole = len(one) // LANES * LANES
    for begin in range(0, whole, LANES):
        for lane in range(LANES):
            difference = np.float64(one[begin + lane]) - np.float64(other[begin + lane])
            lanes[lane] += difference * difference
    for place in range(whole, len(one)):
        difference = np.float64(one[place]) - np.float64(other[place])
        lanes[place - whole] += difference * difference


@njit(**OPTIONS)
def square_distance(one, other, size, count):
    """Σ (one − other)² in float64 of two arrays by their addresses, of ``size`` (4 or 8) bytes an element."""
    lanes = np.zeros(LANES)
    if size == 4:
        _add_squares(carray(_float32_at(one), count), carray(_float32_at(other), count), lanes)
    else:
        _add_squares(carray(_float64_at(one), count), carray(_float64_at(other), count), lanes)
    total = 0.0
    for lane in range(LANES):
        total += lanes[lane]
    return total
