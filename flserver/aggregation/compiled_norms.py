"""How far an update is from the model, and how far along the last step, compiled by numba: one pass over all three."""

# mypy: ignore-errors
# Compiled, not run: numba infers the types, and has none for mypy.

import numpy as np
from numba import carray, njit

from flserver.aggregation.compiled import OPTIONS, _float32_at, _float64_at

LANES = 64  # sums side by side, so that the order is fixed and yet many numbers go at a time


@njit(**OPTIONS)
def _add_products(one, other, before, squares, products):
    whole = len(one) // LANES * LANES
    for begin in range(0, whole, LANES):
        for lane in range(LANES):
            middle = np.float64(other[begin + lane])
            difference = np.float64(one[begin + lane]) - middle
            squares[lane] += difference * difference
            products[lane] += difference * (middle - np.float64(before[begin + lane]))
    for place in range(whole, len(one)):
        middle = np.float64(other[place])
        difference = np.float64(one[place]) - middle
        squares[place - whole] += difference * difference
        products[place - whole] += difference * (middle - np.float64(before[place]))


@njit(**OPTIONS)
def distances(one, other, before, size, count):
    """Σ (one − other)² and Σ (one − other)·(other − before) in float64 of three arrays by their addresses, of ``size``
    (4 or 8) bytes an element."""
    squares, products = np.zeros(LANES), np.zeros(LANES)
    if size == 4:
        _add_products(
            carray(_float32_at(one), count),
            carray(_float32_at(other), count),
            carray(_float32_at(before), count),
            squares,
            products,
        )
    else:
        _add_products(
            carray(_float64_at(one), count),
            carray(_float64_at(other), count),
            carray(_float64_at(before), count),
            squares,
            products,
        )
    square, product = 0.0, 0.0
    for lane in range(LANES):
        square += squares[lane]
        product += products[lane]
    return square, product
