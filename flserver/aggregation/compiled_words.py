"""The exact sum's words, and its loops' way in, compiled by numba: one 64-bit integer an element where that is enough.

``bins`` says why nothing is lost. What does not fit a word goes to bins beside it, or the word is *spilled* into them.
"""

# mypy: ignore-errors
# Compiled, not run: numba infers the types, and has none for mypy.

import math

import numpy as np
from numba import carray, njit

from flserver.aggregation.bins import (
    BELOW,
    BLOCK,
    CUT,
    HALF,
    LOWER,
    LOWEST_32,
    SPILLED,
    STEP,
    UPPER_BITS,
    USUAL,
    WORD_BITS,
    WORD_FROM,
)
from flserver.aggregation.compiled import (
    MAGNITUDE,
    OPTIONS,
    _add_all,
    _add_run,
    _bits,
    _first_grid,
    _float32_at,
    _float64_at,
    _int64_at,
    _largest32,
    _largest64,
    _settle,
)

MOST, MOST_BACK = (1 << WORD_BITS) - 1, 0x7FFFFFFFFFFFFFFF  # units, where numbers are added and taken back
FINEST = USUAL[1]  # the unit of small numbers, as their bins would be usual ones


@njit(**OPTIONS)
def word_of(bins, block, size):
    """The first elements of a word that is there."""
    return carray(_int64_at(bins.slots[bins.word[block]]), size)


@njit(**OPTIONS)
def _make_word(bins, block, bound):
    """Give the block a word of zeros whose unit suits products of at most ``bound``; whether it may have one."""
    if bins.word[block] == SPILLED:
        return False
    for grid in range(len(bins.exponents)):
        if bins.table[block, grid] >= 0:
            return False
    exponent = math.frexp(bound)[1]
    second = min(_first_grid(bound, bins) + 1, len(bins.exponents) - 1)
    unit = max(exponent - BELOW, bins.exponents[second], LOWEST_32)
    if exponent >= FINEST + WORD_FROM:
        unit = max(unit, FINEST)
    if exponent < unit + WORD_FROM:
        return False
    bins.left[0] -= 1
    bins.word[block] = bins.free[bins.left[0]]
    bins.unit[block] = unit
    bins.filled[block] = 0
    word_of(bins, block, BLOCK)[:] = 0
    return True


@njit(**OPTIONS)
def grid_of_unit(bins, unit):
    """The highest grid, as its place, that is no coarser than a word's unit of that exponent."""
    return min(-((unit - bins.exponents[0]) // STEP), len(bins.exponents) - 1)


@njit(**OPTIONS)
def _takes(bins, block, bound, most):
    """Whether the block has a word, with room for products of at most ``bound``, which is not zero, within ``most``
    units. One without room is spilled."""
    exponent = math.frexp(bound)[1]
    if bins.word[block] < 0 and not _make_word(bins, block, bound):
        return False
    unit = bins.unit[block]
    if exponent < unit + WORD_FROM and _first_grid(bound, bins) >= grid_of_unit(bins, unit):
        return False  # so beside a word there are no bins that are coarser than its unit
    if exponent < unit + WORD_BITS:
        more = np.int64(math.ldexp(bound, -unit)) + 1
        if more <= most - bins.filled[block]:
            bins.filled[block] += more
            return True
    spill(bins, block)
    return False


@njit(**OPTIONS)
def _add_to_word(numbers, n, word, unit):
    """Products onto a word; what is left over, as bits of all of it."""
    upper, lower = math.ldexp(1.5, unit + UPPER_BITS + 52), math.ldexp(1.5, unit + 52)
    upper_zero, lower_zero = _bits(upper), _bits(lower)
    left = 0
    for i in range(len(word)):
        product = np.float64(numbers[i]) * n
        first = product + upper
        rest = product - (first - upper)
        second = rest + lower
        word[i] += ((_bits(first) - upper_zero) << UPPER_BITS) + (_bits(second) - lower_zero)
        left |= _bits(rest - (second - lower))
    return left & MAGNITUDE


@njit(**OPTIONS)
def _rests_of_word(numbers, n, unit, rests):
    upper, lower = math.ldexp(1.5, unit + UPPER_BITS + 52), math.ldexp(1.5, unit + 52)
    for i in range(len(rests)):
        product = np.float64(numbers[i]) * n
        rest = product - ((product + upper) - upper)
        rests[i] = rest - ((rest + lower) - lower)


@njit(**OPTIONS)
def _add_narrow(numbers, largest, n, bins, block, start, stop, rests, most):
    """One tensor's elements of float32 from ``start`` to ``stop`` of a block, which are not all zero."""
    if not _takes(bins, block, largest * abs(n), most):
        _add_run(numbers, largest, n, bins, block, start, stop, rests)
    elif _add_to_word(numbers, n, word_of(bins, block, stop)[start:], bins.unit[block]) != 0:
        _rests_of_word(numbers, n, bins.unit[block], rests[: stop - start])
        _add_all(rests[: stop - start], bins, block, start, stop, grid_of_unit(bins, bins.unit[block]))


@njit(**OPTIONS)
def halves(word, unit, high, low):
    """A word as two numbers an element, exactly: multiples of 2^32 units, and what is left of 0 or more."""
    upper, lower = math.ldexp(1.0, unit + HALF), math.ldexp(1.0, unit)
    for i in range(len(word)):
        high[i] = np.float64(word[i] >> HALF) * upper
        low[i] = np.float64(word[i] & LOWER) * lower


@njit(**OPTIONS)
def spill(bins, block):
    """Add a block's word to its bins, of which ``Part.kept_free`` says which they can be; it has none from then on,
    until the sum is begun anew."""
    high, low = np.empty(BLOCK), np.empty(BLOCK)
    halves(word_of(bins, block, BLOCK), bins.unit[block], high, low)
    bins.free[bins.left[0]] = bins.word[block]
    bins.left[0] += 1
    bins.word[block] = SPILLED
    for half in (high, low):
        _add_all(half, bins, block, 0, BLOCK, grid_of_unit(bins, bins.unit[block]))


@njit(**OPTIONS)
def _cut(numbers, pieces):
    """Float64 into three pieces of at most 24 bits, which add up to it (Veltkamp, 1968)."""
    for i in range(len(numbers)):
        wide = numbers[i] * CUT
        pieces[0, i] = wide - (wide - numbers[i])
        rest = numbers[i] - pieces[0, i]
        wide = rest * CUT
        pieces[1, i] = wide - (wide - rest)
        pieces[2, i] = rest - pieces[1, i]


@njit(**OPTIONS)
def add(addresses, pieces, n, bins, place, back):
    """Add n times the tensors' elements to a part of a sum; whether all of it is done.

    ``pieces`` are rows: which of ``addresses``, the first byte there, bytes an element (4 or 8), the first element in
    the part, elements. ``left`` counts the slots that are ``free``; where they are too few for what may come, and,
    unless something is taken ``back``, for taking that back, ``place`` (piece, element) says where to go on.
    """
    spare = len(bins.exponents) * (1 if back else 2)
    most = MOST_BACK if back else MOST
    rests, cut = np.empty(BLOCK), np.empty((3, BLOCK))
    while place[0] < len(pieces):
        which, skipped, size, begin, count = pieces[place[0]]
        done = place[1]
        while done < count:
            if bins.left[0] < spare:
                place[1] = done
                return False
            block, start = (begin + done) // BLOCK, (begin + done) % BLOCK
            run = min(BLOCK - start, count - done)
            stop, address = start + run, addresses[which] + skipped + done * size
            if size == 4:
                largest = _largest32(address, run)
                if largest != 0:
                    numbers = carray(_float32_at(address), run)
                    _add_narrow(numbers, largest, n, bins, block, start, stop, rests, most)
            else:
                _cut(carray(_float64_at(address), run), cut)
                for piece in range(3):
                    largest = _largest64(cut[piece].ctypes.data, run)
                    if largest != 0:
                        _add_run(cut[piece, :run], largest, n, bins, block, start, stop, rests)
            done += run
        place[0] += 1
        place[1] = 0
    return True


@njit(**OPTIONS)
def settle(bins, block):
    """Bring a block into its canonical form; whether there were slots enough for that."""
    if bins.left[0] < len(bins.exponents):
        return False
    if bins.word[block] >= 0:
        spill(bins, block)
    _settle(bins, block)
    return True


@njit(**OPTIONS)
def prepare(bins, block):
    """Bring a block's sum into bins that a mean can be made of: at most two, or the canonical form; whether there were
    slots enough for that."""
    if bins.left[0] < len(bins.exponents):
        return False
    if bins.word[block] >= 0:
        spill(bins, block)
    used = 0
    for grid in range(len(bins.exponents)):
        used += bins.table[block, grid] >= 0
    if used > 2:
        _settle(bins, block)
    return True
