"""Where a sum's bins lie: the elements of a model one after another, in parts of blocks, and each block's bins."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch

from flserver.aggregation.bins import BLOCK, NO_WORD, PART, exponents, magics
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
            np.full((self.blocks, len(grids)), -1, dtype=np.int64),
            np.zeros((self.blocks, len(grids)), dtype=np.int64),
            np.full(self.blocks, NO_WORD, dtype=np.int64),
            *(np.zeros(self.blocks, dtype=np.int64) for _ in range(2)),
            *(nothing, nothing, np.zeros(1, dtype=np.int64)),
            *(grids, magics(grids)),
        )
        self._usual = 3 if (pieces[:, 2] == 8).any() else 1
        self._memory: list[np.ndarray] = []

    def grow(self, scratch: Scratch) -> None:
        """Make room for bins: at first for the usual ones of each block, later for some rare ones. There are always as
        many slots free as a block could need at once. Raises what ``scratch`` raises."""
        spare = len(self.bins.exponents) + 1
        more = spare + (self.blocks // 4 if self._memory else self.blocks * self._usual)
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
