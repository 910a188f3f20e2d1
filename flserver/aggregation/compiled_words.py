"""The exact sum's words, and its loops' way in, compiled by numba: one 64-bit integer an element where that is enough.

``bins`` says why nothing is lost. What does not fit a word goes to bins beside it, or the word is *spilled* into them.
"""

# mypy: ignore-errors
# Compiled, not run: numba infers the types, and has none for mypy.

import math

import numpy as np
from numba import carray, njit

from flserver.aggregation.bins import BELOW, BLOCK, CUT, LOWEST_32, SPILLED, UPPER_BITS, WORD_BITS, WORD_FROM
from flserver.aggregation.compiled import (
    MAGNITUDE,
    OPTIONS,
    _add_all,
    _add_run,
    _bits,
    _float32_at,
    _float64_at,
    _int64_at,
    _largest32,
    _largest64,
    _settle,
)

HALF = 32  # bits
LOWER = (1 << HALF) - 1


@njit(**OPTIONS)
def word_of(bins, block, size):
    """The first elements of a word that is there."""
    return carray(_int64_at(bins.slots[bins.word[block]]), size)


@njit(**OPTIONS)
def _make_word(bins, block, exponent):
    """Give the block a word of zeros whose unit suits products below 2^exponent; whether it may have one."""
    if bins.word[block] == SPILLED:
        return False
    for grid in range(len(bins.exponents)):
        if bins.table[block, grid] >= 0:
            return False
    bins.left[0] -= 1
    bins.word[block] = bins.free[bins.left[0]]
    bins.unit[block] = max(exponent - BELOW, LOWEST_32)
    bins.filled[block] = 0
    word_of(bins, block, BLOCK)[:] = 0
    return True


@njit(**OPTIONS)
def _takes(bins, block, bound):
    """Whether the block has a word, with room for products of at most ``bound``, which is not zero. One without room is
    spilled."""
    exponent = math.frexp(bound)[1]
    if bins.word[block] < 0 and not _make_word(bins, block, exponent):
        return False
    unit = bins.unit[block]
    if exponent < unit + WORD_FROM:
        return False
    if exponent < unit + WORD_BITS:
        filled = bins.filled[block] + np.int64(math.ldexp(bound, -unit)) + 1
        if filled <= 1 << WORD_BITS:
            bins.filled[block] = filled
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
def _add_narrow(numbers, largest, n, bins, block, start, stop, rests):
    """One tensor's elements of float32 from ``start`` to ``stop`` of a block, which are not all zero."""
    if not _takes(bins, block, largest * abs(n)):
        _add_run(numbers, largest, n, bins, block, start, stop, rests)
    elif _add_to_word(numbers, n, word_of(bins, block, stop)[start:], bins.unit[block]) != 0:
        _rests_of_word(numbers, n, bins.unit[block], rests[: stop - start])
        _add_all(rests[: stop - start], bins, block, start, stop)


@njit(**OPTIONS)
def halves(bins, block, high, low):
    """A block's word as two numbers an element, exactly: multiples of 2^32 units, and what is left of 0 or more."""
    word = word_of(bins, block, len(high))
    upper, lower = math.ldexp(1.0, bins.unit[block] + HALF), math.ldexp(1.0, bins.unit[block])
    for i in range(len(high)):
        high[i] = np.float64(word[i] >> HALF) * upper
        low[i] = np.float64(word[i] & LOWER) * lower


@njit(**OPTIONS)
def spill(bins, block):
    """Add a block's word to its bins; it has none from then on, until the sum is begun anew."""
    high, low, rests = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    halves(bins, block, high, low)
    bins.free[bins.left[0]] = bins.word[block]
    bins.left[0] += 1
    bins.word[block] = SPILLED
    for half in (high, low):
        largest = _largest64(half.ctypes.data, BLOCK)
        if largest != 0:
            _add_run(half, largest, 1.0, bins, block, 0, BLOCK, rests)


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
def add(addresses, pieces, n, bins, place):
    """Add n times the tensors' elements to a part of a sum; whether all of it is done.

    ``pieces`` are rows: which of ``addresses``, the first byte there, bytes an element (4 or 8), the first element in
    the part, elements. ``left`` counts the slots that are ``free``; where they are too few for what may come, ``place``
    (piece, element) says where to go on.
    """
    rests, cut = np.empty(BLOCK), np.empty((3, BLOCK))
    while place[0] < len(pieces):
        which, skipped, size, begin, count = pieces[place[0]]
        done = place[1]
        while done < count:
            if bins.left[0] <= len(bins.exponents):
                place[1] = done
                return False
            block, start = (begin + done) // BLOCK, (begin + done) % BLOCK
            run = min(BLOCK - start, count - done)
            stop, address = start + run, addresses[which] + skipped + done * size
            if size == 4:
                largest = _largest32(address, run)
                if largest != 0:
                    numbers = carray(_float32_at(address), run)
                    _add_narrow(numbers, largest, n, bins, block, start, stop, rests)
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
