"""What a sum has in a range, as it stands: for who adds such cuts up and needs the mean alone.

A sum's canonical form, which ``ExactSum.save`` gives, costs more than adding it: every carry, and two bins where one
word is enough. A cut has the words and bins that are there, and a bound of each: a mean is the same of all of them.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from flserver.aggregation import kernel
from flserver.aggregation.bins import BELOW, BLOCK, CARRIES, LOWEST_32, PART, WORD_BITS
from flserver.aggregation.parts import Part, own_memory
from flserver.aggregation.sums import ExactSum
from flserver.errors import UsageError
from flserver.models.state import Pieces, raw_bytes

BLOCKS = PART // BLOCK  # of a part
HIGHEST_UNIT = 128 + 29 - BELOW  # exponent of a word's unit: float32 is below 2^128, samples below 2^29
ROW = 4  # columns: whether it is a word, the exponent of its unit, its block in the range, the bound of its units


def cut(total: ExactSum, blocks: range, places: range, description: bytes) -> Pieces:
    """What ``total`` has in these blocks, and at these places of its integers, for a sum whose layout has the
    ``description``: ``rows`` (of ROW columns, in ascending order of block), and 64-bit ``numbers`` (BLOCK) of each,
    where the sum has them; ``changes``, ``counts`` and ``layout`` as ``ExactSum.save`` has them. No bin has more than
    CARRIES units. It is what it is until something is added to the sum, or its mean is made."""
    rows, found = [], list[torch.Tensor]()
    for block in blocks:
        number, inside = divmod(block, BLOCKS)
        part = total.parts[number]
        if (part.bins.units[inside, part.bins.table[inside] >= 0] > CARRIES).any():
            total.settle(part, inside)
        for is_word, exponent, units, its in _held(part, inside):
            rows.append((is_word, exponent, block - blocks.start, units))
            found.append(torch.from_numpy(its))
    changes = total.medians.rows(places)
    changes[0] -= places.start
    return {
        "layout": torch.frombuffer(bytearray(description), dtype=torch.uint8),
        "counts": torch.tensor([total.samples, total.clients]),
        "rows": torch.tensor(rows, dtype=torch.int64).view(-1, ROW),
        "numbers": found or torch.empty(0, BLOCK, dtype=torch.int64),
        "changes": changes,
    }


def _held(part: Part, block: int) -> Iterator[tuple[bool, int, int, np.ndarray]]:
    """What a block's sum is made of: whether it is a word, the exponent of its unit, the bound of its units, and its
    64-bit numbers."""
    bins = part.bins
    if bins.word[block] >= 0:
        yield True, int(bins.unit[block]), int(bins.filled[block]), part.word(block)
    for grid in np.flatnonzero(bins.table[block] >= 0).tolist():
        units = int(bins.units[block, grid])
        yield False, int(bins.exponents[grid]), units, part.bin(block, grid).view(np.int64)


def take(total: ExactSum, cut: Pieces) -> None:
    """Add what ``cut`` gave to a sum over the range's model, of which only cuts and the mean are made. Raises
    UsageError where it was of another range, or is nothing that ``cut`` gives: the loops look at no bounds."""
    numbers, about = list(cut["numbers"]), {name: one for name, one in cut.items() if isinstance(one, torch.Tensor)}
    if bytes(raw_bytes(about["layout"])) != total.description():
        raise UsageError("the cut is of a model with other tensors")
    rows = about["rows"].numpy()
    if not _is_sound(rows, numbers, total):
        raise UsageError("the cut is none of a sum")
    ends = np.searchsorted(rows[:, 2], BLOCKS * np.arange(len(total.parts) + 1))
    for number, part in enumerate(total.parts):
        start, stop = ends[number : number + 2]
        its = rows[start:stop] - np.array([0, 0, number * BLOCKS, 0])
        kernel.load().take(part, its, numbers[start:stop], own_memory)
    samples, clients = about["counts"].tolist()
    total.samples += samples
    total.medians.include(clients, about["changes"])


def _is_sound(rows: np.ndarray, numbers: Sequence[torch.Tensor], total: ExactSum) -> bool:
    if rows.shape != (len(numbers), ROW) or any(one.dtype != torch.int64 or one.numel() != BLOCK for one in numbers):
        return False
    kinds, exponents, blocks, units = rows.T
    words = kinds == 1
    within = (blocks >= 0) & (blocks < total.blocks) & (words | (kinds == 0))
    units_of_words = (exponents >= LOWEST_32) & (exponents <= HIGHEST_UNIT)
    known = np.where(words, units_of_words, np.isin(exponents, total.layout.grids))
    bounded = (units >= 0) & (units <= np.where(words, (1 << WORD_BITS) - 1, CARRIES))
    return bool((within & known & bounded).all() and (np.diff(blocks) >= 0).all())
