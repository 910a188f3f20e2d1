"""A sum of updates as a value: exact, whatever its order, and however it is cut up and put together again.

Two sums of the same updates are equal, bit for bit, whichever machine made which part of them. One can be saved, read
again, merged with another, and an update or a whole sum can be subtracted, as if it had never been there.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import blake3
import numpy as np
import torch

from flserver.aggregation import kernel
from flserver.aggregation.bins import BLOCK, MOST_SAMPLES, PART
from flserver.aggregation.medians import Difference, Medians
from flserver.aggregation.parts import Layout, Part, Scratch, own_memory
from flserver.aggregation.rounding import way_of
from flserver.errors import NoRoom, UsageError
from flserver.models.state import State, raw_bytes, unset_state

ARITHMETIC = "exact-sum-1"
"""The name of how a round's mean is computed: the exact sum, rounded once; medians of what is no float."""

MOST_OF_ONE = (1 << 29) - 1  # samples


class ExactSum:
    """Σ nᵢ·wᵢ over updates of the layout of ``model``, and of its integers the multiset of what was changed in them.

    ``model`` is the one that the updates answer; it stays as it is as long as the sum is used. ``scratch`` gives
    memory for bins, and may raise. ``samples`` is Σ nᵢ, ``clients`` how many there are.
    """

    def __init__(self, model: State, scratch: Scratch = own_memory) -> None:
        self.layout = Layout(model)
        self._scratch = scratch
        self._dtypes = {name: tensor.dtype for name, tensor in model.items()}
        self._shapes = {name: tensor.shape for name, tensor in model.items()}
        self.parts = [Part(pieces, self.layout.grids) for pieces in self.layout.parts]
        self.medians = Medians(model, scratch)
        self.samples = 0

    @property
    def clients(self) -> int:
        """How many updates were added."""
        return self.medians.clients

    def empty(self) -> "ExactSum":
        """A sum of nothing, of the same layout and over the same model's integers, in memory of its own."""
        return ExactSum(self.model)

    @property
    def model(self) -> State:
        """The model that the updates answer, as far as a sum needs it: of what is averaged there are no numbers."""
        return {
            name: self.medians.base.get(name, torch.empty(self._shapes[name], dtype=dtype, device="meta"))
            for name, dtype in self._dtypes.items()
        }

    @property
    def tensor_kinds(self) -> Mapping[str, tuple[torch.dtype, torch.Size]]:
        """The dtype and the shape of each of the model's tensors."""
        return {name: (dtype, self._shapes[name]) for name, dtype in self._dtypes.items()}

    def begin(self, model: State) -> bool:
        """Forget what was added; ``model`` is the one that updates answer from now on. Whether it has the same layout;
        else nothing is done."""
        dtypes = {name: tensor.dtype for name, tensor in model.items()}
        shapes = {name: tensor.shape for name, tensor in model.items()}
        if (list(dtypes), dtypes, shapes) != (list(self._dtypes), self._dtypes, self._shapes):
            return False
        self._forget(Medians(model, self._scratch))
        return True

    def _forget(self, medians: Medians) -> None:
        for part in self.parts:
            part.clear()
        self.medians, self.samples = medians, 0

    def add(self, update: State, n: int) -> None:
        """Add an update with n samples, from 1 to 2²⁹ − 1; its numbers are finite, float64 up to 2⁹⁷⁰. Raises
        TooDifferent where there is no room for its integers; then nothing was added."""
        difference = self.medians.difference(update)
        tensors = self.tensors(update)
        self.count(difference, n)
        for part in self.parts:
            self.add_to(part, tensors, n)

    def subtract(self, update: State, n: int) -> None:
        """Take an update back that was added with n samples."""
        tensors = self.tensors(update)
        self.medians.add(self.medians.difference(update), -1)
        self.samples -= n
        for part in self.parts:
            self.add_to(part, tensors, -n)

    def tensors(self, update: State) -> list[torch.Tensor]:
        """The floating-point tensors of an update as they are added: contiguous, float32 or float64. They are over
        the update's memory where that is so already. Raises ValueError where they are not the layout's."""
        found = []
        for name, dtype in self.layout.dtypes.items():
            given = update[name]
            if given.dtype != dtype or given.shape != self.layout.shapes[name]:
                raise ValueError(f"{name} is {given.dtype} {list(given.shape)}, which the sum's layout has not")
            wide = given if dtype.itemsize >= 4 else given.to(torch.float32)
            found.append((wide.detach() if wide.requires_grad else wide).contiguous())
        return found

    def count(self, difference: Difference, n: int) -> None:
        """The part of ``add`` that is not in ``parts``. For one thread at a time."""
        if not 1 <= n <= MOST_OF_ONE:
            raise ValueError(f"an update counts for 1 to {MOST_OF_ONE} samples, not {n}")
        if self.samples + n > MOST_SAMPLES:
            raise ValueError(f"a sum counts for at most {MOST_SAMPLES} samples")
        self.medians.add(difference)
        self.samples += n

    def add_to(self, part: Part, tensors: Sequence[torch.Tensor], n: int) -> None:
        """The part of ``add`` that is in ``part``, which is one thread's meanwhile; different ones at once.

        Raises what ``scratch`` raises, and then nothing was added. Afterwards there is room for the mean."""
        loops, done = kernel.load(), np.zeros(2, dtype=np.int64)
        try:
            while not loops.add(part.pieces, tensors, n, part, done, back=False):
                part.grow(self._scratch)
            if loops.short(part):
                part.make_sure(self._scratch)
        except NoRoom:
            self._take_back(part, tensors, n, part.until(done))
            raise

    def take_from(self, part: Part, tensors: Sequence[torch.Tensor], n: int) -> None:
        """Take back what ``add_to`` added, and the bins and the memory that nothing else needs."""
        self._take_back(part, tensors, n, part.pieces)

    def _take_back(self, part: Part, tensors: Sequence[torch.Tensor], n: int, pieces: np.ndarray) -> None:
        loops, done = kernel.load(), np.zeros(2, dtype=np.int64)
        while not loops.add(pieces, tensors, -n, part, done, back=True):
            before = part.bins.left[0]
            part.drop_zeros()
            if part.bins.left[0] == before:  # what is left of it has to be carried
                part.grow(self._scratch)
        part.drop_zeros()
        with suppress(NoRoom):  # digits may have been put otherwise than they were taken
            for block in part.rare:
                loops.settle(part, block, self._scratch)
        part.trim()

    def merge(self, other: "ExactSum") -> None:
        """Add all that ``other``, a sum of the same layout and over the same model's integers, has."""
        self._take(other, 1)

    def subtract_sum(self, other: "ExactSum") -> None:
        """Take back all that ``other`` has."""
        self._take(other, -1)

    def _take(self, other: "ExactSum", sign: int) -> None:
        if other.layout != self.layout:
            raise ValueError("sums of two layouts have no sum")
        other.canonical()
        self.canonical()  # so that there is room for all of the other's
        for mine, its in zip(self.parts, other.parts, strict=True):
            for block, grid in np.argwhere(its.bins.table >= 0):
                mine.put(block, grid, its.bin(block, grid) * sign, int(its.bins.units[block, grid]), self._scratch)
        self.medians.merge(other.medians, sign)
        self.samples += sign * other.samples

    def canonical(self) -> None:
        """Do all carries, so that equal sums have equal bins."""
        for part in self.parts:
            for block in range(part.blocks):
                self.settle(part, block)

    def settle(self, part: Part, block: int) -> None:
        """Do all carries of a block of one of its parts."""
        kernel.load().settle(part, block, self._scratch)

    def mean(self) -> State:
        """The mean, rounded once, and the medians, in memory of its own. Raises ValueError where nothing was added."""
        if not self.samples:
            raise ValueError("no update was added: there is no mean")
        state = unset_state(self._dtypes, self._shapes)
        narrow = [name for name, dtype in self.layout.dtypes.items() if dtype.itemsize < 4]
        wide = {name: torch.empty(self.layout.shapes[name], dtype=torch.float32) for name in narrow}
        targets = [wide.get(name, state[name]).view(-1) for name in self.layout.names]
        ways = [way_of(dtype) for dtype in self.layout.dtypes.values()]
        for part in self.parts:
            kernel.load().mean(part, targets, ways, self.samples, self._scratch)
        for name, tensor in (wide | self.medians.finish()).items():
            state[name].copy_(tensor)
        return state

    def save(self) -> State:
        """The sum in its canonical form: ``bins``, rows of a grid's exponent and a block; ``numbers``, those of each
        row; ``changes``, rows of place, value and times; ``counts``, samples and clients; ``layout``, as text."""
        found = list(self._bins())
        numbers = np.empty((len(found), BLOCK))
        for row, (_, _, bin) in zip(numbers, found, strict=True):
            row[:] = bin
        rows = [(exponent, block) for exponent, block, _ in found]
        return {
            "layout": torch.frombuffer(bytearray(self.description()), dtype=torch.uint8),
            "counts": torch.tensor([self.samples, self.clients]),
            "bins": torch.tensor(rows, dtype=torch.int64).view(-1, 2),
            "numbers": torch.from_numpy(numbers),
            "changes": self.medians.rows(),
        }

    def load(self, saved: State) -> None:
        """Be the sum that ``save`` gave. Raises UsageError where that was of another layout."""
        if bytes(raw_bytes(saved["layout"])) != self.description():
            raise UsageError("the saved sum is of a model with other tensors")
        self._forget(Medians(self.medians.base, self._scratch))
        grids = {int(exponent): grid for grid, exponent in enumerate(self.layout.grids)}
        for (exponent, block), numbers in zip(saved["bins"].tolist(), saved["numbers"], strict=True):
            part, inside = divmod(block, PART // BLOCK)
            array = numbers.numpy()
            units = int(np.ldexp(np.abs(array).max(), -exponent))
            self.parts[part].put(inside, grids[exponent], array, units, self._scratch)
        self.samples, clients = saved["counts"].tolist()
        self.medians.include(clients, saved["changes"])

    def digest(self) -> str:
        """``blake3:hex`` of the canonical form: the same for equal sums, and only for them."""
        digest = blake3.blake3()
        for tensor in self.save().values():
            digest.update(tensor.nbytes.to_bytes(8, "little"))
            if tensor.numel():
                digest.update(raw_bytes(tensor))
        return "blake3:" + digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ExactSum) or self.layout != other.layout:
            return False
        mine, its = self.save(), other.save()
        return all(torch.equal(mine[name], its[name]) for name in mine)

    __hash__ = None  # type: ignore[assignment]

    def _bins(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """The bins in their canonical form: exponent, block, numbers, in ascending order of block and place of the
        grid."""
        for block in range(self.blocks):
            number, inside = divmod(block, PART // BLOCK)
            part = self.parts[number]
            self.settle(part, inside)
            for grid in np.flatnonzero(part.bins.table[inside] >= 0).tolist():
                yield int(self.layout.grids[grid]), block, part.bin(inside, grid)

    @property
    def blocks(self) -> int:
        """How many blocks the elements of its floating-point tensors take, one after another."""
        return -(-self.layout.elements // BLOCK)

    def description(self) -> bytes:
        """Its layout as text, as ``describe`` gives it."""
        return describe(self.tensor_kinds)


def describe(tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]]) -> bytes:
    """A layout as text: names, dtypes and shapes."""
    return json.dumps([[n, str(d).removeprefix("torch."), list(shape)] for n, (d, shape) in tensors.items()]).encode()
