"""The exact sum's inner loops in numpy, with the same bits as ``compiled``: for where there is no numba, and slower.

``bins`` says why nothing is lost. All take a part; ``scratch`` is where it gets more memory from.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch

from flserver.aggregation.bins import (
    BLOCK,
    CAPACITY,
    CARRIED,
    CARRIES,
    CUT,
    HALF,
    HEADROOM,
    HIGHEST,
    LOWER,
    REST,
    SCALE,
    SPLIT_SAMPLES,
    STEP,
)
from flserver.aggregation.parts import Part, Scratch
from flserver.aggregation.rounding import Way, rounded

NEAR = 2.0**-48  # relative: more than a quotient's error
CHUNK = 1 << 18  # elements compared at a time, so that a large model needs no second copy


def add(pieces: np.ndarray, tensors: Sequence[np.ndarray], n: int, part: Part, place: np.ndarray, back: bool) -> bool:
    """Add n times the numbers of ``tensors``, each flat and of float32 or float64, to the part; whether all of it is
    done. Where too few slots are free for what may come, and, unless something is taken ``back``, for taking that back,
    ``place`` (piece, element) says where to go on."""
    spare = len(part.bins.exponents) * (1 if back else 2)
    for number in range(place[0], len(pieces)):
        which, skipped, size, begin, count = pieces[number].tolist()
        numbers = tensors[which][skipped // size :][:count]
        for block, start, stop, done in _runs(begin, count):
            if done < place[1]:
                continue
            if part.bins.left[0] < spare:
                place[:] = number, done
                return False
            run = numbers[done : done + stop - start].astype(np.float64)
            for piece in _cut(run) if size == 8 else (run,):
                _add_run(part, piece * n, block, start, stop)
        place[:] = number + 1, 0
    return True


def _runs(begin: int, count: int) -> list[tuple[int, int, int, int]]:
    """A tensor's elements by block: the block, the first place in it, the one after the last, how many were before."""
    runs, done = [], 0
    while done < count:
        block, start = divmod(begin + done, BLOCK)
        stop = min(BLOCK, start + count - done)
        runs.append((block, start, stop, done))
        done += stop - start
    return runs


def _cut(numbers: np.ndarray) -> tuple[np.ndarray, ...]:
    """Float64 into three pieces of at most 24 bits, which add up to it (Veltkamp, 1968)."""
    first = numbers * CUT - (numbers * CUT - numbers)
    rest = numbers - first
    second = rest * CUT - (rest * CUT - rest)
    return first, second, rest - second


def _add_run(part: Part, rests: np.ndarray, block: int, start: int, stop: int) -> None:
    exponents, magic = part.bins.exponents, part.bins.magic
    first = True
    while (bound := float(np.abs(rests).max())) > 0:
        grid = min((int(exponents[0]) + HEADROOM - math.frexp(bound)[1]) // STEP, len(exponents) - 1)
        more = int(math.ldexp(bound, -int(exponents[grid]))) + 1 if first else REST
        _make_room(part, block, grid, more)
        multiples = (rests + magic[grid]) - magic[grid]
        part.bin(block, grid)[start:stop] += multiples
        rests = rests - multiples
        first = False


def _make_room(part: Part, block: int, grid: int, more: int) -> None:
    first = grid
    while first > 0 and _is_full(part, block, first, more if first == grid else CARRIED):
        first -= 1
    for giving in range(first + 1, grid + 1):
        _carry(part, block, giving)
    _make(part, block, grid)
    part.bins.units[block, grid] += more


def _is_full(part: Part, block: int, grid: int, more: int) -> bool:
    table, units = part.bins.table, part.bins.units
    if units[block, grid] + more <= CAPACITY or table[block, grid] < 0:
        return False
    units[block, grid] = _units(part, block, grid)
    return bool(units[block, grid] > CARRIES)


def _units(part: Part, block: int, grid: int) -> int:
    return int(math.ldexp(float(np.abs(part.bin(block, grid)).max()), -int(part.bins.exponents[grid])))


def _make(part: Part, block: int, grid: int) -> None:
    table, units, free, left = part.bins.table, part.bins.units, part.bins.free, part.bins.left
    if table[block, grid] < 0:
        left[0] -= 1
        table[block, grid] = free[left[0]]
        units[block, grid] = 0
        part.bin(block, grid)[:] = 0.0


def _carry(part: Part, block: int, grid: int) -> None:
    bins, numbers = part.bins, part.bin(block, grid)
    half, most = math.ldexp(REST, int(bins.exponents[grid])), bins.magic[grid - 1]
    scale = SCALE if bins.exponents[grid - 1] == HIGHEST else 1.0
    multiples = ((numbers * scale + most) - most) / scale
    multiples -= np.where(numbers - multiples == -half, 2 * half, 0.0)
    bins.units[block, grid] = REST
    if multiples.any():
        _make(part, block, grid - 1)
        bins.units[block, grid - 1] += CARRIED
        part.bin(block, grid - 1)[:] += multiples
        numbers[:] = (numbers - multiples) + 0.0


def distances(one: torch.Tensor, other: torch.Tensor, before: torch.Tensor) -> tuple[float, float]:
    """Σ (one − other)² and Σ (one − other)·(other − before) in float64 of three flat tensors, a piece at a time."""
    # Scratch for the whole tensor: fresh memory for each piece costs more in page faults than the sum itself.
    size = min(CHUNK, one.numel())
    scratch = [torch.empty(size, dtype=torch.float64) for _ in range(3)]
    square = product = 0.0
    for start in range(0, one.numel(), CHUNK):
        pieces = [tensor[start : start + CHUNK] for tensor in (one, other, before)]
        mine, theirs, old = (place[: piece.numel()].copy_(piece) for place, piece in zip(scratch, pieces, strict=True))
        mine.sub_(theirs)
        square += float(torch.dot(mine, mine))
        product += float(torch.dot(mine, theirs.sub_(old)))
    return square, product


def settle(part: Part, block: int, scratch: Scratch) -> None:
    """Bring a block into its canonical form."""
    if part.bins.left[0] < len(part.bins.exponents):
        part.grow(scratch)
    table, units, free, left = part.bins.table, part.bins.units, part.bins.free, part.bins.left
    exponents = part.bins.exponents
    for grid in range(1, len(exponents)):
        if table[block, grid] >= 0 and units[block, grid] > CARRIES:  # so that all have room
            _carry(part, block, grid)
    for grid in range(len(exponents) - 1, 0, -1):
        if table[block, grid] >= 0:
            _carry(part, block, grid)
    for grid in range(len(exponents)):
        if table[block, grid] >= 0:
            units[block, grid] = _units(part, block, grid)
            if units[block, grid] == 0:
                free[left[0]] = table[block, grid]
                left[0] += 1
                table[block, grid] = -1


def take(part: Part, rows: np.ndarray, numbers: Sequence[np.ndarray], scratch: Scratch) -> None:
    """Add words and bins as ``cuts.cut`` gives them, whose blocks are the part's."""
    exponents = part.bins.exponents
    for (is_word, exponent, block, units), its in zip(rows.tolist(), numbers, strict=True):
        if part.bins.left[0] < 2 * len(exponents):
            part.grow(scratch)
        if is_word:
            _add_run(part, (its >> HALF) * 2.0 ** (exponent + HALF), block, 0, BLOCK)
            _add_run(part, (its & LOWER) * 2.0**exponent, block, 0, BLOCK)
        else:
            grid = (int(exponents[0]) - exponent) // STEP
            _make_room(part, block, grid, units)
            part.bin(block, grid)[:] += its.view(np.float64)


def mean(part: Part, targets: Sequence[np.ndarray], ways: Sequence[Way], samples: int, scratch: Scratch) -> None:
    """Round each element's sum over ``samples`` into ``targets``, flat ones of float32 or float64, a way for each."""
    for which, skipped, size, begin, count in part.pieces.tolist():
        target = targets[which][skipped // size :][:count]
        for block, start, stop, done in _runs(begin, count):
            if (part.bins.table[block] >= 0).sum() > 2:
                settle(part, block, scratch)
            digits = [part.bin(block, grid)[start:stop] for grid in np.flatnonzero(part.bins.table[block] >= 0)[::-1]]
            target[done : done + stop - start] = _mean_of(digits, samples, ways[which], stop - start)


def _mean_of(digits: Sequence[np.ndarray], samples: int, way: Way, count: int) -> np.ndarray:
    """The rounded means of the sums of ``digits``, from the lowest grid to the highest."""
    high, low = np.zeros(count), np.zeros(count)
    for digit in digits:
        total = high + digit
        other = total - high
        low = low + ((high - (total - other)) + (digit - other))
        high = total
    quotient = high / samples
    if way == "nearest 64":
        found = quotient
        unsure = high != 0
    elif way == "nearest 32":
        one, other = ((quotient * nudge).astype(np.float32) for nudge in (1 - NEAR, 1 + NEAR))
        boundary = (one.astype(np.float64) + other) / 2
        side = _sides(digits, high, low, boundary, samples)
        found = np.where(side > 0, np.maximum(one, other), np.where(side < 0, np.minimum(one, other), one))
        found = np.where(side == 0, boundary.astype(np.float32), found)
        found = np.where(one == other, one, found)
        unsure = (one != other) & np.isnan(side)
    else:
        near = quotient.astype(np.float32)
        side = _sides(digits, high, low, near.astype(np.float64), samples)
        close = np.abs(quotient - near) <= np.abs(quotient) * NEAR
        rest = np.where(close, side, quotient - near)
        words = near.view(np.int32) - (((rest < 0) != (quotient < 0)) & (rest != 0))
        found = np.where(rest != 0, words | 1, near.view(np.int32)).astype(np.int32).view(np.float32)
        unsure = close & np.isnan(side)
    for place in np.flatnonzero(unsure):
        found[place] = rounded(sum((Fraction(float(d[place])) for d in digits), Fraction(0)) / samples, way)
    return found


def _sides(
    digits: Sequence[np.ndarray], high: np.ndarray, low: np.ndarray, boundary: np.ndarray, samples: int
) -> np.ndarray:
    """Of sums of at most two digits: a number with the sign of sum − boundary · samples; else NaN.

    ``compiled_mean`` says why that is exact.
    """
    if len(digits) > 2:
        return np.full(len(high), np.nan)
    upper = math.floor(samples / SPLIT_SAMPLES) * SPLIT_SAMPLES
    sides: np.ndarray = ((high - boundary * upper) - boundary * (samples - upper)) + low
    return sides
