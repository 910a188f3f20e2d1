"""Where a sum's bins lie: the elements of a model one after another, in parts of blocks, and each block's bins."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch

from flserver.aggregation.bins import BLOCK, PART, USUAL, exponents, magics
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
    in it; ``slots`` the slots' addresses; ``free`` those that are nobody's, of which the first ``left[0]`` count.
    """

    table: np.ndarray
    units: np.ndarray
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
            np.full((self.blocks, len(grids)), -1, dtype=np.int64),
            np.zeros((self.blocks, len(grids)), dtype=np.int64),
            *(nothing, nothing, np.zeros(1, dtype=np.int64)),
            *(grids, magics(grids)),
        )
        self._usual = USUAL if (pieces[:, 2] == 8).any() else USUAL[:2]  # exponents of the grids of usual numbers
        self._memory: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []

    @property
    def kept_free(self) -> int:
        """How many slots stay free between two updates: twice what a block could need at once, so that one can be taken
        back, the usual bins that blocks do not have yet, which are nobody's rare numbers' to take, and the bins that
        carries could make for the mean."""
        there = self.bins.table >= 0
        usual = self.blocks * len(self._usual) - int(there[:, np.isin(self.bins.exponents, self._usual)].sum())
        settled = there[self.rare]
        return 2 * len(self.bins.exponents) + usual + int((settled[:, 1:] & ~settled[:, :-1]).sum())

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
        """Drop the bins of zeros, such as an update leaves that was taken back."""
        table, _, _, free, left, *_ = self.bins
        for block, grid in np.argwhere(table >= 0):
            if not self.bin(block, grid).any():
                free[left[0]] = table[block, grid]
                left[0] += 1
                table[block, grid] = -1

    def trim(self) -> None:
        """Give back what memory is not needed, after bins were dropped."""
        table, left = self.bins.table, self.bins.left
        while len(self._memory) > 1 and left[0] - len(self._memory[-1]) >= self.kept_free:
            count = len(self._rows) - len(self._memory.pop())
            nobodys = np.setdiff1d(np.arange(count), table)
            for (block, grid), slot in zip(np.argwhere(table >= count), nobodys, strict=False):
                self._rows[slot][:] = self.bin(block, grid)
                table[block, grid] = slot
            self._rows = self._rows[:count]
            nobodys = np.setdiff1d(np.arange(count), table)[::-1]
            free = np.concatenate([nobodys, np.empty(count - len(nobodys), dtype=np.int64)])
            left[0] = len(nobodys)
            self.bins = self.bins._replace(slots=self.bins.slots[:count].copy(), free=free)

    def clear(self) -> None:
        """Forget all that was added; the memory stays."""
        self.bins.table[:] = -1
        count = len(self.bins.slots)
        self.bins.free[:] = np.arange(count)[::-1]
        self.bins.left[0] = count

    def bin(self, block: int, grid: int) -> np.ndarray:
        """The numbers of a bin that is there."""
        row: np.ndarray = self._rows[self.bins.table[block, grid]]
        return row

    def put(self, block: int, grid: int, numbers: np.ndarray, units: int, scratch: Scratch) -> None:
        """Add numbers of at most so many units to a bin that has room for them."""
        table, bounds, _, free, left, *_ = self.bins
        if table[block, grid] < 0:
            if left[0] <= len(self.bins.exponents):
                self.grow(scratch)
                table, bounds, _, free, left, *_ = self.bins
            left[0] -= 1
            table[block, grid] = free[left[0]]
            bounds[block, grid] = 0
            self.bin(block, grid)[:] = 0.0
        self.bin(block, grid)[:] += numbers
        bounds[block, grid] += units


def own_memory(size: int) -> memoryview:
    """The scratch of whoever has no budget."""
    return memoryview(anonymous(size))
