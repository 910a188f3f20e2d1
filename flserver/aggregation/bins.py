"""The grids that an exact sum is kept on, and why no bit of it is lost. Pure numbers.

A *bin* is a float64 array that holds the part of a sum on one *grid*: multiples of 2^k, its *units*. The exponents k
are 36 apart: …, 18, −18, −54, …, from 990 down to −1098, which is the whole range of float64 with room for the sum.
**Split.** Let |p| ≤ 2^(k+49), and M = 1.5·2^(k+52). Then p + M lies in [2^(k+52), 2^(k+53)), where float64's
neighbours are 2^k apart, so h = (p + M) − M is the nearest multiple of 2^k, both operations being what IEEE 754 says,
and the rest p − h is exact: it is at most half a unit, 2^(k−1), and p has no bit below the rest's. For the next grid
that is 2^35 units, less than the 2^49 that are allowed, so the rest is split there in the same way; and so on until it
is zero. At −162 a product of float32 has no rest (it is a multiple of 2^−149), at −1098 one of float64 (2^−1074).

**Products.** n·w is exact in float64 where w has at most 24 bits and |n| < 2^29: 24 + 29 = 53. So it is up to float32;
a float64 w is cut into three pieces of at most 24 bits (24, 24 and 5), each of which is a product of its own. The
largest is below 2^970 · 2^29, which 954 is the grid for; 990 takes only what is carried there.

**Capacity.** A bin is exact while its units stay within 2^53. For each bin of each block a bound of its units is kept
as an integer: a product's first bin grows by at most |p|/2^k + 1 units, those below by 2^35. Where the bound would pass
2^53 the bin is looked at; one that holds more than 2^52 units gives what is a multiple of the next grid to the next bin
(a *carry*, split as above: at most 2^17 units of that grid), and keeps at most 2^35.

**Words.** Two bins are much memory to read and write where one 64-bit integer an element is enough, as it is for usual
float32. So a block's sum may begin as a *word*, in units of 2^u where its first products are below 2^(u+54), or a few
bits more: it is no finer than the second bin would be. A product
below 2^(u+62) is split as above, at M = 1.5·2^(u+20+52) and at M = 1.5·2^(u+52): |p| ≤ 2^(u+20+51) keeps p + M within
[2^(u+20+52), 2^(u+20+53)], where neighbouring float64 are 2^(u+20) apart and have neighbouring bits, so that the
difference of the bits of p + M and of M is how many units h has; likewise the rest, of at most 2^(u+19). What is left
over goes to the bins from the unit's grid (the highest that is no coarser than the unit) downwards. A bound of the
units is kept as for bins, within 2^62; beyond it the word is *spilled*: its upper and lower 32 bits are numbers to be
added to the bins, down to the unit's grid and no further, and the block has bins only from then on. A sum is its word
and its bins together, so which of them hold it makes no bit another. What is taken back has been in the word, so it is
let in within 2^63: taking back spills nothing that was added in the same way.

**Canonical form.** Words are spilled. After the carries from the lowest bin to the highest every bin holds from −2^35,
which is left out, to 2^35 units, which is not: digits in base 2^36, which one number has in only one way. (A half,
which goes to even, could be written in two: so −2^35 becomes 2^35 and one unit less above.) Bins of zeros are dropped.
So equal sums have equal bits, whatever they were made of.

**Blocks.** A bin exists for a *block* of 4,096 elements, where a number needs it: 32 KiB, so that its elements and two
bins stay in the first two levels of a cache between a look at their range and their sum, and one odd number costs a bin
of 32 KiB and not of a model. Blocks come in *parts* of a million elements, which threads can add to at once.
"""

from collections.abc import Iterable

import numpy as np
import torch

BLOCK = 1 << 12  # elements
PART = 1 << 20  # elements
STEP = 36  # bits from a grid to the next
HIGHEST, LOWEST = 990, -1098  # exponents of the grids that float64 needs
HIGHEST_32, LOWEST_32 = 162, -162  # those that float32 and narrower ones need, with room for 2^53 samples
USUAL = (-18, -54, -90)  # the grids of a model's usual numbers, the last one for float64
HEADROOM = 49  # |p| ≤ 2^(k + HEADROOM) where k is the first grid of p
CAPACITY = 1 << 53  # units
CARRIES = 1 << 52  # units, beyond which a bin gives some to the next
REST = 1 << (STEP - 1)  # units, that a bin below the first grows by at most
CARRIED = (1 << 17) + 1  # units, that a bin grows by at most where the one below gives it a carry
MOST_SAMPLES = (1 << 53) - 1  # Σ n
SPLIT_SAMPLES = 2.0**28  # Σ n is split there: each part times a number of 25 bits is exact
BELOW = 54  # a word's first products are below 2^(unit + BELOW)
WORD_BITS = 62  # a word is exact within 2^62 units
HALF = 32  # bits of its lower half
LOWER = (1 << HALF) - 1  # which these are
WORD_FROM = 26  # products below 2^(unit + 26) go to bins: a word would hold too little of them
UPPER_BITS = 20  # from the second grid of a word's split to the first
NO_WORD, SPILLED = -1, -2  # in place of a slot
CUT = 2.0**29 + 1  # what float64 is cut into pieces with
SCALE = 2.0**-128  # the highest grid's M is no float64: there the split is scaled


def exponents(dtypes: Iterable[torch.dtype]) -> np.ndarray:
    """The exponents of the grids for tensors of these dtypes, in descending order."""
    high, low = (HIGHEST, LOWEST) if torch.float64 in dtypes else (HIGHEST_32, LOWEST_32)
    return np.arange(high, low - 1, -STEP, dtype=np.int64)


def magics(grids: np.ndarray) -> np.ndarray:
    """Each grid's M; that of the highest of all is scaled by SCALE."""
    scaled = np.where(grids == HIGHEST, -128, 0)
    found: np.ndarray = np.ldexp(1.5, grids + 52 + scaled)
    return found
