"""The exact mean's inner loops, compiled by numba: one rounding of a sum over a number of samples.

A float64 quotient that is right but for a few units of its last place decides the rounding, except where a *boundary*
of it (a midpoint of two neighbours; of what is rounded to odd, a number itself) is as near: there the sum is held
against boundary · samples, exactly. Ties are not rare: half of the means of two numbers are one.
"""

# mypy: ignore-errors
# Compiled, not run: numba infers the types, and has none for mypy.

import math

import numpy as np
from numba import carray, njit

from flserver.aggregation.bins import BLOCK, HALF, LOWER, SPLIT_SAMPLES
from flserver.aggregation.compiled import (
    OPTIONS,
    _bin,
    _bits,
    _float32_at,
    _float64_at,
)
from flserver.aggregation.compiled_words import halves, prepare, word_of

NEAREST_32, ODD_32, NEAREST_64 = 0, 1, 2
NEAR, NEAR_64 = 2.0**-48, 2.0**-94  # relative: more than a quotient's error
LIMB = 18  # bits
ONES = (1 << LIMB) - 1
SAFE = 2.0**900  # a double-double neither overflows nor underflows between this and its reciprocal
SPLIT = 2.0**27 + 1
SUBNORMAL = -1074  # the exponent of the last bit


@njit(**OPTIONS)
def _side(bins, block, place, mantissa, exponent, samples, limbs):
    """The sign of S − mantissa · 2^exponent · samples, where S is an element of the sum; |mantissa| ≤ 2^54.

    In integers: ``limbs`` of 18 bits from the lowest grid on, so that a grid has two.
    """
    limbs[:] = 0
    grids = len(bins.exponents)
    for grid in range(grids):
        if bins.table[block, grid] >= 0:
            digit = carray(_float64_at(bins.slots[bins.table[block, grid]]), BLOCK)[place]
            limbs[2 * (grids - 1 - grid)] += np.int64(math.ldexp(digit, -bins.exponents[grid]))
    sign = 1 if mantissa > 0 else -1
    mantissa, skipped = abs(mantissa), exponent - bins.exponents[grids - 1]
    first, shift = skipped // LIMB, skipped % LIMB
    for i in range(4):
        part = sign * (((mantissa >> (LIMB * i)) & ONES) << shift)
        for j in range(3):
            limbs[first + i + j] -= part * ((samples >> (LIMB * j)) & ONES)
    carry = 0
    some = 0
    for i in range(len(limbs)):
        value = limbs[i] + carry
        carry = value >> LIMB
        some |= value & ONES
    if carry < 0:
        return -1
    return 1 if some | carry else 0


@njit(**OPTIONS)
def _ratio(number, lowest):
    """An integer of at most 53 bits and an exponent, of ``lowest`` or more, that make a float64."""
    fraction, exponent = math.frexp(number)
    exponent -= 53
    mantissa = np.int64(math.ldexp(fraction, 53))
    while exponent < lowest:  # of a small number the last bits are zeros
        mantissa //= 2
        exponent += 1
    return mantissa, exponent


@njit(**OPTIONS)
def _sum(bins, block, count, high, low):
    """The sums of a block as ``high`` + ``low``: exactly, with ``high`` nearest, where there are at most two bins; to
    some 100 bits where there are more, which are in canonical form. How many there are."""
    used = 0
    high[:count] = 0.0
    low[:count] = 0.0
    for grid in range(len(bins.exponents) - 1, -1, -1):
        if bins.table[block, grid] >= 0:
            used += 1
            digits = _bin(bins, block, grid, count)
            for i in range(count):
                total = high[i] + digits[i]
                other = total - high[i]
                low[i] += (high[i] - (total - other)) + (digits[i] - other)
                high[i] = total
    return used


@njit(**OPTIONS)
def _sum_of_word(bins, block, high, low):
    """The same of a block that has a word and no bins: exactly, for the upper half is 0 or no less than the lower."""
    halves(word_of(bins, block, BLOCK), bins.unit[block], high, low)
    for i in range(len(high)):
        total = high[i] + low[i]
        low[i] -= total - high[i]
        high[i] = total


@njit(**OPTIONS)
def _against(bins, block, place, exact, high, low, boundary, samples, limbs):
    """The sign of the sum − boundary · samples, for a boundary of at most 25 bits near their quotient.

    Where the sum is ``high`` + ``low`` exactly, both products are exact (25 + 28 bits), and so are the differences:
    what is subtracted is as large as what it is subtracted from, and the last one keeps its sign.
    """
    if exact:
        upper = math.floor(samples / SPLIT_SAMPLES) * SPLIT_SAMPLES
        difference = ((high - boundary * upper) - boundary * (samples - upper)) + low
        return 1 if difference > 0 else -1 if difference < 0 else 0
    mantissa, exponent = _ratio(boundary, bins.exponents[-1])
    return _side(bins, block, place, mantissa, exponent, np.int64(samples), limbs)


@njit(**OPTIONS)
def _nearest_32(bins, block, start, stop, exact, high, low, samples, target, limbs):
    unsure = 0
    for i in range(stop - start):
        quotient = high[start + i] / samples
        one, other = np.float32(quotient - quotient * NEAR), np.float32(quotient + quotient * NEAR)
        target[i] = one
        unsure |= _bits(np.float64(one) - np.float64(other))
    if unsure == 0:
        return
    if exact:
        _decide_32(high[start:stop], low[start:stop], samples, target)
        return
    for i in range(start, stop):
        quotient = high[i] / samples
        one, other = np.float32(quotient - quotient * NEAR), np.float32(quotient + quotient * NEAR)
        if one != other:
            boundary = (np.float64(one) + np.float64(other)) / 2
            side = _against(bins, block, i, exact, high[i], low[i], boundary, samples, limbs)
            if side == 0:
                target[i - start] = np.float32(boundary)  # a tie, which goes to even
            else:
                target[i - start] = max(one, other) if side > 0 else min(one, other)


@njit(**OPTIONS)
def _word_32(word, unit, samples, target):
    """The same of a run that is in a word only, in one go; whether all of it is decided.

    Both halves are integers, so their sum is rounded once, also where they cancel: then only by ``part``'s rounding and
    the product's is the quotient off.
    """
    part, upper = math.ldexp(1.0 / samples, unit), np.float64(1 << HALF)
    unsure = 0
    for i in range(len(target)):
        quotient = (np.float64(word[i] >> HALF) * upper + np.float64(word[i] & LOWER)) * part
        one, other = np.float32(quotient - quotient * NEAR), np.float32(quotient + quotient * NEAR)
        target[i] = one
        unsure |= _bits(np.float64(one) - np.float64(other))
    return unsure == 0


@njit(**OPTIONS)
def _decide_32(high, low, samples, target):
    """The same for all of a run at once, where the sum is ``high`` + ``low`` exactly, and without branches."""
    upper = math.floor(samples / SPLIT_SAMPLES) * SPLIT_SAMPLES
    lower = samples - upper
    for i in range(len(target)):
        quotient = high[i] / samples
        one, other = np.float32(quotient - quotient * NEAR), np.float32(quotient + quotient * NEAR)
        boundary = (np.float64(one) + np.float64(other)) / 2
        side = ((high[i] - boundary * upper) - boundary * lower) + low[i]
        side = side if quotient > 0.0 else -side  # ``other`` is further from zero
        decided = other if side > 0.0 else (one if side < 0.0 else np.float32(boundary))
        target[i] = decided if one != other else one


@njit(**OPTIONS)
def _odd_32(bins, block, start, stop, exact, high, low, samples, target, limbs):
    words = target.view(np.int32)
    for i in range(start, stop):
        quotient = high[i] / samples
        near = np.float32(quotient)
        target[i - start] = near
        rest = quotient - np.float64(near)
        if abs(rest) <= abs(quotient) * NEAR:
            rest = np.float64(_against(bins, block, i, exact, high[i], low[i], np.float64(near), samples, limbs))
        if rest != 0.0:  # towards zero, then the last bit says that something was cut off
            words[i - start] = (words[i - start] - ((rest < 0) != (quotient < 0))) | 1


@njit(**OPTIONS)
def _nearest_64(bins, block, start, stop, high, low, samples, target, limbs):
    for i in range(start, stop):
        total = high[i]
        quotient = total / samples
        sure = False
        if total == 0.0 or 1 / SAFE < abs(total) < SAFE:
            product = quotient * samples
            wide, other = quotient * SPLIT, samples * SPLIT
            one, two = wide - (wide - quotient), other - (other - samples)
            error = (((one * two - product) + one * (samples - two)) + (quotient - one) * two) + (quotient - one) * (
                samples - two
            )
            more = (((total - product) - error) + low[i]) / samples
            nudge = abs(quotient) * NEAR_64
            nearest = quotient + (more - nudge)
            sure = nearest == quotient + (more + nudge)
            quotient = quotient + more
        target[i - start] = quotient if sure else _exact_64(bins, block, i, quotient, np.int64(samples), limbs)


@njit(**OPTIONS)
def _exact_64(bins, block, place, near, samples, limbs):
    """The nearest float64 to the exact quotient, which is some places from ``near`` at most, of the same sign."""
    sign = 1 if _side(bins, block, place, 0, 0, samples, limbs) > 0 else -1
    mantissa, exponent = _ratio(abs(near), SUBNORMAL)
    while True:
        above = sign * _side(bins, block, place, sign * (2 * mantissa + 1), exponent - 1, samples, limbs)
        if above > 0 or (above == 0 and mantissa & 1):
            mantissa += 1
            if mantissa == 1 << 53:
                mantissa, exponent = 1 << 52, exponent + 1
            continue
        if mantissa == 0:
            break
        finer = mantissa == 1 << 52 and exponent > SUBNORMAL
        times, shift = (4, 2) if finer else (2, 1)
        below = sign * _side(bins, block, place, sign * (times * mantissa - 1), exponent - shift, samples, limbs)
        if below < 0 or (below == 0 and mantissa & 1):
            mantissa -= 1
            if finer:
                mantissa, exponent = (1 << 53) - 1, exponent - 1
            continue
        break
    return sign * math.ldexp(np.float64(mantissa), exponent)


@njit(**OPTIONS)
def mean(addresses, pieces, samples, kinds, bins, place):
    """Round each element's sum over ``samples`` to where ``addresses`` say; whether all of it is done, as in ``add``.

    ``kinds`` has one of NEAREST_32, ODD_32 (float32 rounded to odd, for narrower ones) and NEAREST_64 a piece.
    """
    high, low = np.empty(BLOCK), np.empty(BLOCK)
    limbs = np.empty(2 * len(bins.exponents) + 12, np.int64)
    current, exact = -1, False
    while place[0] < len(pieces):
        which, skipped, size, begin, count = pieces[place[0]]
        kind, done = kinds[place[0]], place[1]
        while done < count:
            block, start = (begin + done) // BLOCK, (begin + done) % BLOCK
            run = min(BLOCK - start, count - done)
            stop, address = start + run, addresses[which] + skipped + done * size
            used = 0
            for grid in range(len(bins.exponents)):
                used += bins.table[block, grid] >= 0
            word_only = used == 0 and bins.word[block] >= 0
            if word_only and kind == NEAREST_32:
                target = carray(_float32_at(address), run)
                if _word_32(word_of(bins, block, stop)[start:], bins.unit[block], samples, target):
                    done += run
                    continue
            if block != current:
                if word_only:
                    _sum_of_word(bins, block, high, low)
                elif (used > 2 or bins.word[block] >= 0) and not prepare(bins, block):
                    place[1] = done
                    return False
                exact = word_only or _sum(bins, block, BLOCK, high, low) <= 2
                current = block
            if kind == NEAREST_32:
                target = carray(_float32_at(address), run)
                _nearest_32(bins, block, start, stop, exact, high, low, samples, target, limbs)
            elif kind == ODD_32:
                target = carray(_float32_at(address), run)
                _odd_32(bins, block, start, stop, exact, high, low, samples, target, limbs)
            else:
                _nearest_64(bins, block, start, stop, high, low, samples, carray(_float64_at(address), run), limbs)
            done += run
        place[0] += 1
        place[1] = 0
    return True
