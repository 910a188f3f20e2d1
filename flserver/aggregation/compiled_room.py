"""Whether a part of a sum has slots enough free, which is asked after every update, compiled by numba."""

# mypy: ignore-errors
# Compiled, not run: numba infers the types, and has none for mypy.

import math

from numba import njit

from flserver.aggregation.bins import CARRIES, HALF, HEADROOM, STEP
from flserver.aggregation.compiled import OPTIONS

QUICK = {**OPTIONS, "nogil": False}  # over before another thread could do anything with the interpreter


@njit(**QUICK)
def short(bins, usual):
    """Whether fewer slots are free than ``Part.kept_free`` says; ``usual`` tells the grids of usual numbers."""
    grids = len(bins.exponents)
    kept = 2 * grids
    for block in range(len(bins.word)):
        word = bins.word[block] >= 0
        highest, lowest = grids, -1
        if word:  # the bins that it could be spilled into
            largest = bins.unit[block] + math.frexp(bins.filled[block] + 2.0**HALF)[1]
            highest = (bins.exponents[0] + HEADROOM - largest) // STEP
            lowest = -((bins.unit[block] - bins.exponents[0]) // STEP)
        missing, used, carried, full, above = 0, 0, 0, False, True
        for grid in range(grids):
            there = bins.table[block, grid] >= 0
            spilled = there or highest <= grid <= lowest
            missing += not there and (spilled or usual[grid])
            used += spilled
            carried += spilled and not above
            full = full or (there and bins.units[block, grid] > CARRIES)
            above = spilled
        kept += max(missing - word, 0)
        if used > 2 or (full and word):
            kept += carried
    return bins.left[0] < kept
