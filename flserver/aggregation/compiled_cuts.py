"""Adding what another sum has in a range, word by word and bin by bin, compiled by numba."""

# mypy: ignore-errors
# Compiled, not run: numba infers the types, and has none for mypy.

import numpy as np
from numba import carray, njit

from flserver.aggregation.bins import BLOCK, NO_WORD, STEP, WORD_BITS
from flserver.aggregation.compiled import OPTIONS, _add_all, _bin, _float64_at, _int64_at, _make_room
from flserver.aggregation.compiled_words import MOST, grid_of_unit, halves, spill, word_of


@njit(**OPTIONS)
def _is_empty(bins, block):
    if bins.word[block] != NO_WORD:
        return False
    used = 0
    for grid in range(len(bins.exponents)):
        used += bins.table[block, grid] >= 0
    return used == 0


@njit(**OPTIONS)
def _add_in_units(bins, block, unit, units, numbers):
    """Add to a block's word in the finer one of both units; whether there is room."""
    finer = min(unit, bins.unit[block])
    mine, its = bins.unit[block] - finer, unit - finer
    if mine + its > WORD_BITS:  # and what is shifted further is no number
        return False
    if bins.filled[block] > MOST >> mine or units > (MOST - (bins.filled[block] << mine)) >> its:
        return False
    word = word_of(bins, block, BLOCK)
    for i in range(BLOCK):
        word[i] = (word[i] << mine) + (numbers[i] << its)
    bins.unit[block] = finer
    bins.filled[block] = (bins.filled[block] << mine) + (units << its)
    return True


@njit(**OPTIONS)
def _take_word(bins, block, unit, units, numbers):
    if _is_empty(bins, block):
        bins.left[0] -= 1
        bins.word[block] = bins.free[bins.left[0]]
        bins.unit[block], bins.filled[block] = unit, units
        word_of(bins, block, BLOCK)[:] = numbers
        return
    if bins.word[block] >= 0:
        if _add_in_units(bins, block, unit, units, numbers):
            return
        spill(bins, block)
    high, low = np.empty(BLOCK), np.empty(BLOCK)
    halves(numbers, unit, high, low)
    for half in (high, low):
        _add_all(half, bins, block, 0, BLOCK, grid_of_unit(bins, unit))


@njit(**OPTIONS)
def _take_bin(bins, block, exponent, units, numbers):
    grid = (bins.exponents[0] - exponent) // STEP
    _make_room(bins, block, grid, units)
    mine = _bin(bins, block, grid, BLOCK)
    for i in range(BLOCK):
        mine[i] += numbers[i]


@njit(**OPTIONS)
def take(bins, rows, addresses, place):
    """Add words and bins to a part of a sum; whether all of them were, as in ``compiled_words.add``.

    ``rows`` are those of ``cuts.cut``, with the part's own blocks; their numbers lie at ``addresses``.
    """
    while place[0] < len(rows):
        if bins.left[0] < 2 * len(bins.exponents):
            return False
        is_word, exponent, block, units = rows[place[0]]
        numbers = addresses[place[0]]
        if is_word:
            _take_word(bins, block, exponent, units, carray(_int64_at(numbers), BLOCK))
        else:
            _take_bin(bins, block, exponent, units, carray(_float64_at(numbers), BLOCK))
        place[0] += 1
    return True
