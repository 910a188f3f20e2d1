"""The exact sum's inner loops, compiled by numba. Only ``kernel.load`` imports this; ``plain`` does the same in numpy.

Memory is given by its address: what comes over the wire may be read-only or lie at any byte, and each would be another
type to numba, compiled anew. No ``fastmath``: the bits are the point. ``bins`` says why nothing is lost.
"""

# mypy: ignore-errors
# Compiled, not run: numba infers the types, and has none for mypy.

import math

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from flserver.aggregation.bins import (
    BLOCK,
    CAPACITY,
    CARRIED,
    CARRIES,
    HEADROOM,
    HIGHEST,
    REST,
    SCALE,
    STEP,
)

MAGNITUDE = 0x7FFFFFFFFFFFFFFF
OPTIONS = {"nogil": True, "boundscheck": False, "error_model": "numpy"}


def _pointer(kind, llvm):
    @intrinsic
    def at(context, address):
        def codegen(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], llvm.as_pointer())

        return types.CPointer(kind)(types.int64), codegen

    return at


_float64_at = _pointer(types.float64, ir.DoubleType())
_float32_at = _pointer(types.float32, ir.FloatType())
_int64_at = _pointer(types.int64, ir.IntType(64))
_uint32_at = _pointer(types.uint32, ir.IntType(32))


@intrinsic
def _bits(context, value):
    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), codegen


@intrinsic
def _larger(context, one, other):
    """The larger of two uint32 as magnitudes of float32, in 32 bits all the way, so that eight go at a time."""

    def codegen(context, builder, signature, arguments):
        one, other = arguments
        other = builder.and_(other, ir.Constant(ir.IntType(32), 0x7FFFFFFF))
        return builder.select(builder.icmp_unsigned(">", one, other), one, other)

    return types.uint32(types.uint32, types.uint32), codegen


@njit(**OPTIONS)
def _largest32(address, count):
    words = carray(_uint32_at(address), count)
    found = np.uint32(0)
    for i in range(count):
        found = _larger(found, words[i])
    one = np.empty(1, np.uint32)
    one[0] = found
    return np.float64(one.view(np.float32)[0])


@njit(**OPTIONS)
def _largest64(address, count):
    words = carray(_int64_at(address), count)
    found = 0
    for i in range(count):
        found = max(found, words[i] & MAGNITUDE)
    one = np.empty(1, np.int64)
    one[0] = found
    return one.view(np.float64)[0]


@njit(**OPTIONS)
def _add_two(numbers, n, high, low, magic, next_magic):
    """Products onto two grids; what is left over, as bits of all of it."""
    left = 0
    for i in range(len(high)):
        product = np.float64(numbers[i]) * n
        first = (product + magic) - magic
        rest = product - first
        second = (rest + next_magic) - next_magic
        high[i] += first
        low[i] += second
        left |= _bits(rest - second)
    return left & MAGNITUDE


@njit(**OPTIONS)
def _add_one(numbers, n, high, magic, rests):
    """Products onto one grid; the rests, and all of their bits."""
    left = 0
    for i in range(len(high)):
        product = np.float64(numbers[i]) * n
        first = (product + magic) - magic
        high[i] += first
        rests[i] = product - first
        left |= _bits(rests[i])
    return left & MAGNITUDE


@njit(**OPTIONS)
def _add_rests(high, magic, rests):
    for i in range(len(high)):
        first = (rests[i] + magic) - magic
        high[i] += first
        rests[i] -= first


@njit(**OPTIONS)
def _rests_of_two(numbers, n, magic, next_magic, rests):
    for i in range(len(rests)):
        product = np.float64(numbers[i]) * n
        rest = product - ((product + magic) - magic)
        rests[i] = rest - ((rest + next_magic) - next_magic)


@njit(**OPTIONS)
def _first_grid(bound, bins):
    """The lowest grid that takes products of at most ``bound``, which is not zero, as its place."""
    exponent = math.frexp(bound)[1]
    return max(0, min((bins.exponents[0] + HEADROOM - exponent) // STEP, len(bins.exponents) - 1))


@njit(**OPTIONS)
def _bin(bins, block, grid, size):
    return carray(_float64_at(bins.slots[bins.table[block, grid]]), size)


@njit(**OPTIONS)
def _make(bins, block, grid):
    """Give the block a bin of zeros, where it has none on this grid."""
    if bins.table[block, grid] < 0:
        bins.left[0] -= 1
        bins.table[block, grid] = bins.free[bins.left[0]]
        bins.units[block, grid] = 0
        _bin(bins, block, grid, BLOCK)[:] = 0.0


@njit(**OPTIONS)
def _carry(bins, block, grid):
    """Give what is a multiple of the next grid to the next bin, which has room for it, as the canonical form has it."""
    bin = _bin(bins, block, grid, BLOCK)
    half, most = math.ldexp(np.float64(REST), bins.exponents[grid]), bins.magic[grid - 1]
    scale = SCALE if bins.exponents[grid - 1] == HIGHEST else 1.0
    given = 0
    for i in range(BLOCK):
        multiple = ((bin[i] * scale + most) - most) / scale
        multiple -= 2.0 * half if bin[i] - multiple == -half else 0.0
        given |= _bits(multiple)
    bins.units[block, grid] = REST
    if given & MAGNITUDE == 0:
        return
    _make(bins, block, grid - 1)
    bins.units[block, grid - 1] += CARRIED
    above = _bin(bins, block, grid - 1, BLOCK)
    for i in range(BLOCK):
        multiple = ((bin[i] * scale + most) - most) / scale
        multiple -= 2.0 * half if bin[i] - multiple == -half else 0.0
        above[i] += multiple
        bin[i] = (bin[i] - multiple) + 0.0


@njit(**OPTIONS)
def _is_full(bins, block, grid, more):
    """Whether a bin has to give something before it takes so many units."""
    if bins.units[block, grid] + more <= CAPACITY or bins.table[block, grid] < 0:
        return False
    largest = _largest64(bins.slots[bins.table[block, grid]], BLOCK)
    bins.units[block, grid] = np.int64(math.ldexp(largest, -bins.exponents[grid]))
    return bins.units[block, grid] > CARRIES


@njit(**OPTIONS)
def _make_room(bins, block, grid, more):
    """See that the block has a bin on this grid, with room for so many units."""
    first = grid
    while first > 0 and _is_full(bins, block, first, more if first == grid else CARRIED):
        first -= 1
    for giving in range(first + 1, grid + 1):
        _carry(bins, block, giving)
    _make(bins, block, grid)
    bins.units[block, grid] += more


@njit(**OPTIONS)
def _add_run(numbers, largest, n, bins, block, start, stop, rests):
    """One tensor's elements from ``start`` to ``stop`` of a block, which are not all zero, onto bins."""
    bound = largest * abs(n)
    grid = _first_grid(bound, bins)
    more = np.int64(math.ldexp(bound, -bins.exponents[grid])) + 1
    _make_room(bins, block, grid, more)
    high, rests = _bin(bins, block, grid, stop)[start:], rests[: stop - start]
    if grid + 1 < len(bins.exponents) and bins.table[block, grid + 1] >= 0:
        _make_room(bins, block, grid + 1, REST)
        low = _bin(bins, block, grid + 1, stop)[start:]
        if _add_two(numbers, n, high, low, bins.magic[grid], bins.magic[grid + 1]) == 0:
            return
        _rests_of_two(numbers, n, bins.magic[grid], bins.magic[grid + 1], rests)
    elif _add_one(numbers, n, high, bins.magic[grid], rests) == 0:
        return
    _add_all(rests, bins, block, start, stop, len(bins.exponents))


@njit(**OPTIONS)
def _add_all(rests, bins, block, start, stop, through):
    """Numbers onto as many bins as they need, on none below grid ``through`` before that; they are zeros afterwards."""
    while True:
        bound = _largest64(rests.ctypes.data, len(rests))
        if bound == 0:
            return
        grid = _first_grid(bound, bins)
        if grid >= through:
            grid, through = through, len(bins.exponents)
        _make_room(bins, block, grid, np.int64(math.ldexp(bound, -bins.exponents[grid])) + 1)
        _add_rests(_bin(bins, block, grid, stop)[start:], bins.magic[grid], rests)


@njit(**OPTIONS)
def _settle(bins, block):
    """Bring a block of bins into its canonical form; there are slots enough for that."""
    for grid in range(1, len(bins.exponents)):
        if bins.table[block, grid] >= 0 and bins.units[block, grid] > CARRIES:  # so that all have room
            _carry(bins, block, grid)
    for grid in range(len(bins.exponents) - 1, 0, -1):
        if bins.table[block, grid] >= 0:
            _carry(bins, block, grid)
    for grid in range(len(bins.exponents)):
        if bins.table[block, grid] >= 0:
            largest = _largest64(bins.slots[bins.table[block, grid]], BLOCK)
            bins.units[block, grid] = np.int64(math.ldexp(largest, -bins.exponents[grid]))
            if largest == 0:
                bins.free[bins.left[0]] = bins.table[block, grid]
                bins.left[0] += 1
                bins.table[block, grid] = -1
