"""Where a sum's bins lie: the elements of a model one after another, in parts of blocks, and each block's bins."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch

from flserver.aggregation.bins import (
    BLOCK,
    CARRIES,
    HALF,
    HEADROOM,
    NO_WORD,
    PART,
    SPILLED,
    STEP,
    USUAL,
    exponents,
    magics,
)
from flserver.models.pages import anonymous
from flserver.models.state import State

BIN = BLOCK * 8  # bytes
ALIGNED = 8  # elements, at a multiple of which each tensor begins

Scratch = Callable[[int], memoryview]
"""Gives so many zeroed bytes, for as long as they are kept."""


class Layout:
    """The floating-point tensors of a model, by name, and where each one's elements are in the parts of a sum.

    ``parts`` has a table a part, with a row for each tensor that has elements in it: the tensor's number, its first
    byte there, bytes an element (of what is narrower than float32: 4, as it is widened), the first element in the part,
    the number of elements.
    """

    def __init__(self, model: State) -> None:
        floating = {name: tensor for name, tensor in model.items() if tensor.is_floating_point()}
        self.names = list(floating)
        self.dtypes: Mapping[str, torch.dtype] = {name: tensor.dtype for name, tensor in floating.items()}
        self.shapes: Mapping[str, torch.Size] = {name: tensor.shape for name, tensor in floating.items()}
        self.grids = exponents(self.dtypes.values())
        rows: dict[int, list[tuple[int, int, int, int, int]]] = {}
        begin = 0
        for number, (name, dtype) in enumerate(self.dtypes.items()):
            size, count = max(4, dtype.itemsize), floating[name].numel()
            done = 0
            while done < count:
                part, inside = divmod(begin + done, PART)
                run = min(PART - inside, count - done)
                rows.setdefault(part, []).append((number, done * size, size, inside, run))
                done += run
            begin += -(-count // ALIGNED) * ALIGNED
        self.parts = [np.array(rows[part], dtype=np.int64) for part in sorted(rows)]
        self.elements = begin

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and (
            (self.dtypes, self.shapes, self.names) == (other.dtypes, other.shapes, other.names)
        )

    __hash__ = None  # type: ignore[assignment]


class Bins(NamedTuple):
    """A part's bins as the loops see them. A *slot* is the memory of a bin.

    ``table`` and ``units`` have a row a block and a column a grid: the slot of the bin, or -1, and the bound of what is
    in it; ``word``, ``unit`` and ``filled`` have for each block the slot of its word, or NO_WORD or SPILLED, the
    exponent of its unit, and the bound of how many are in it; ``slots`` the slots' addresses; ``free`` those that are
    nobody's, of which the first ``left[0]`` count.
    """

    table: np.ndarray
    units: np.ndarray
    word: np.ndarray
    unit: np.ndarray
    filled: np.ndarray
    slots: np.ndarray
    free: np.ndarray
    left: np.ndarray
    exponents: np.ndarray
    magic: np.ndarray


class Part:
    """The bins of one part of a sum. ``pieces`` is the layout's table of it."""

    def __init__(self, pieces: np.ndarray, grids: np.ndarray) -> None:
        self.pieces = pieces
        self.blocks = -(-int((pieces[:, 3] + pieces[:, 4]).max()) // BLOCK)
        nothing = np.empty(0, dtype=np.int64)
        self.bins = Bins(
            table=np.full((self.blocks, len(grids)), -1, dtype=np.int64),
            units=np.zeros((self.blocks, len(grids)), dtype=np.int64),
            word=np.full(self.blocks, NO_WORD, dtype=np.int64),
            unit=np.zeros(self.blocks, dtype=np.int64),
            filled=np.zeros(self.blocks, dtype=np.int64),
            slots=nothing,
            free=nothing,
            left=np.zeros(1, dtype=np.int64),
            exponents=grids,
            magic=magics(grids),
        )
        self._usual = USUAL if (pieces[:, 2] == 8).any() else USUAL[:2]  # exponents of the grids of usual numbers
        self.is_usual = np.isin(grids, self._usual)
        self._memory: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []

    @property
    def kept_free(self) -> int:
        """How many slots stay free between two updates: twice what a block could need at once, so that one can be taken
        back, the usual bins that blocks do not have yet, which are nobody's rare numbers' to take, the bins that words
        could be spilled into, and those that carries could make for the mean. A word's own slot is free then."""
        there = self.bins.table >= 0
        words = self.bins.word >= 0
        spilled = there | self._spilled() if words.any() else there
        missing = (~there & (spilled | self.is_usual)).sum(axis=1)
        full = words & (there & (self.bins.units > CARRIES)).any(axis=1)
        settled = spilled[(spilled.sum(axis=1) > 2) | full]
        carried = int((settled[:, 1:] & ~settled[:, :-1]).sum())
        return 2 * len(self.bins.exponents) + int(np.maximum(missing - words, 0).sum()) + carried

    def _spilled(self) -> np.ndarray:
        """The bins that the blocks' words could be spilled into: those between the grid of the largest number that may
        be in one and the grid of its unit."""
        bins, columns = self.bins, np.arange(len(self.bins.exponents))
        largest = bins.unit + np.frexp(bins.filled + 2.0**HALF)[1]
        highest = (bins.exponents[0] + HEADROOM - largest) // STEP
        lowest = np.minimum(-((bins.unit - bins.exponents[0]) // STEP), columns[-1])
        between = (columns >= highest[:, None]) & (columns <= lowest[:, None])
        found: np.ndarray = between & (bins.word >= 0)[:, None]
        return found

    @property
    def rare(self) -> np.ndarray:
        """The blocks with more bins than usual numbers need: the mean settles them first."""
        found: np.ndarray = np.flatnonzero((self.bins.table >= 0).sum(axis=1) > 2)
        return found

    def make_sure(self, scratch: Scratch) -> None:
        """See that as many slots are free as have to be. Raises what ``scratch`` raises."""
        while self.bins.left[0] < self.kept_free:
            self.grow(scratch)

    def until(self, place: np.ndarray) -> np.ndarray:
        """The pieces, as far as before ``place`` (piece, element)."""
        pieces = self.pieces[: place[0] + 1].copy()
        if place[0] < len(self.pieces):
            pieces[-1, 4] = place[1]
        return pieces

    def grow(self, scratch: Scratch) -> None:
        """Make room for bins: at first for the usual ones of each block, later for some rare ones. Raises what
        ``scratch`` raises."""
        more = 2 * len(self.bins.exponents) + (self.blocks // 4 if self._memory else self.blocks * len(self._usual))
        memory = np.frombuffer(scratch(more * BIN), dtype=np.float64).reshape(more, BLOCK)
        slots, free, left = self.bins.slots, self.bins.free, self.bins.left
        free = np.concatenate([free[: left[0]], np.arange(len(slots), len(slots) + more)[::-1]])
        addresses = memory.ctypes.data + np.arange(more, dtype=np.int64) * BIN
        self._memory.append(memory)
        left[0] += more
        self.bins = self.bins._replace(
            slots=np.concatenate([slots, addresses]),
            free=np.concatenate([free, np.empty(len(slots) + more - len(free), dtype=np.int64)]),
        )
        self._rows = [row for memory in self._memory for row in memory]

    def drop_zeros(self) -> None:
        """Drop the bins and words of zeros, such as an update leaves that was taken back."""
        table, word, free, left = self.bins.table, self.bins.word, self.bins.free, self.bins.left
        for block, grid in np.argwhere(table >= 0):
            if not self.bin(block, grid).any():
                free[left[0]] = table[block, grid]
                left[0] += 1
                table[block, grid] = -1
        for block in np.flatnonzero(word >= 0):
            numbers = self.word(int(block))
            self.bins.filled[block] = max(int(numbers.max()), -int(numbers.min()))
            if self.bins.filled[block] == 0:
                free[left[0]] = word[block]
                left[0] += 1
                word[block] = NO_WORD
        word[(word == SPILLED) & (table < 0).all(axis=1)] = NO_WORD

    def trim(self) -> None:
        """Give back what memory is not needed, after bins were dropped."""
        table, word, left = self.bins.table, self.bins.word, self.bins.left
        while len(self._memory) > 1 and left[0] - len(self._memory[-1]) >= self.kept_free:
            count = len(self._rows) - len(self._memory.pop())
            slots = iter(self._nobodys(count))
            for owners in (table, word):
                for place in map(tuple, np.argwhere(owners >= count)):
                    slot = next(slots)
                    self._rows[slot].view(np.int64)[:] = self._rows[owners[place]].view(np.int64)
                    owners[place] = slot
            self._rows = self._rows[:count]
            nobodys = self._nobodys(count)[::-1]
            free = np.concatenate([nobodys, np.empty(count - len(nobodys), dtype=np.int64)])
            left[0] = len(nobodys)
            self.bins = self.bins._replace(slots=self.bins.slots[:count].copy(), free=free)

    def _nobodys(self, count: int) -> np.ndarray:
        """Of the first ``count`` slots those that are free."""
        return np.setdiff1d(np.arange(count), np.append(self.bins.table, self.bins.word))

    def clear(self) -> None:
        """Forget all that was added; the memory stays."""
        self.bins.table[:] = -1
        self.bins.word[:] = NO_WORD
        count = len(self.bins.slots)
        self.bins.free[:] = np.arange(count)[::-1]
        self.bins.left[0] = count

    def bin(self, block: int, grid: int) -> np.ndarray:
        """The numbers of a bin that is there."""
        row: np.ndarray = self._rows[self.bins.table[block, grid]]
        return row

    def word(self, block: int) -> np.ndarray:
        """The 64-bit integers of a word that is there."""
        row: np.ndarray = self._rows[self.bins.word[block]].view(np.int64)
        return row

    def put(self, block: int, grid: int, numbers: np.ndarray, units: int, scratch: Scratch) -> None:
        """Add numbers of at most so many units to a bin that has room for them."""
        table, bounds, free, left = self.bins.table, self.bins.units, self.bins.free, self.bins.left
        if table[block, grid] < 0:
            if left[0] <= len(self.bins.exponents):
                self.grow(scratch)
                free, left = self.bins.free, self.bins.left
            left[0] -= 1
            table[block, grid] = free[left[0]]
            bounds[block, grid] = 0
            self.bin(block, grid)[:] = 0.0
        self.bin(block, grid)[:] += numbers
        bounds[block, grid] += units


def own_memory(size: int) -> memoryview:
    """The scratch of whoever has no budget."""
    return memoryview(anonymous(size))
