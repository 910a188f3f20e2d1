"""Medians of the tensors that have no mean: integers, such as BatchNorm's counters, and booleans.

Each element of the new model is the lower median over the clients, each counted once, for the weight is what a client
says of itself. So no value of a minority's choosing gets through, and the result does not depend on the order. A
boolean takes the majority's value; a tie leaves it as it was.

What is kept of the clients is a multiset: how many have a *value* at a *place*, where that differs from the model sent.
Such multisets are added and subtracted, in any order. Few places of an update are kept as rows (place, value, times);
a tensor that differs in many is kept as it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from flserver.aggregation.parts import Scratch, own_memory
from flserver.errors import NoRoom, TooDifferent
from flserver.models.state import State

FEW = 1 << 12  # places of one update that are kept as rows
KEPT = 1 << 20  # rows of all updates together, 24 bytes each
WORK = 1 << 20  # rows sorted at a time, at the end
CHUNK = 1 << 18  # elements compared at a time

NONE = torch.empty(3, 0, dtype=torch.int64)


@dataclass(eq=False)
class Difference:
    """In what one update differs: ``rows`` of place, value and times 1, whose places count the elements of all tensors
    one after another, and copies of the tensors that differ in ``many`` places."""

    rows: Tensor
    many: dict[str, Tensor]


class Medians:
    """What the clients of one round differ in from ``model``, which stays as it is meanwhile."""

    def __init__(self, model: State, scratch: Scratch = own_memory) -> None:
        self.base = {name: tensor for name, tensor in model.items() if not tensor.is_floating_point()}
        self._scratch = scratch
        self.clients = 0
        self._rows = NONE
        self._new: list[Tensor] = []  # rows that were not merged yet
        self._waiting = 0  # how many
        self._many: list[tuple[str, Tensor, int]] = []  # name, values, times

    def difference(self, update: State) -> Difference:
        """What is to be kept of an update. Raises TooDifferent where there is no room for it."""
        rows, many, start, room = [], {}, 0, min(FEW, KEPT - self._kept)
        for name, base in self.base.items():
            given = update[name]
            if not torch.equal(given, base):
                found = _differing(given.reshape(-1), base.reshape(-1), room)
                if found is None:
                    many[name] = self._copy(name, given)
                else:
                    room -= len(found)
                    values = given.reshape(-1)[found].to(torch.int64)
                    rows.append(torch.stack([found + start, values, torch.ones_like(found)]))
            start += base.numel()
        return Difference(torch.cat(rows, dim=1) if rows else NONE, many)

    def add(self, difference: Difference, times: int = 1) -> None:
        """Count an update; with −1 for ``times`` one that was counted before no longer."""
        self.clients += times
        self._take(difference.rows, times)
        self._many += [(name, values, times) for name, values in difference.many.items()]

    def merge(self, other: "Medians", times: int = 1) -> None:
        """Count all clients of ``other``, which differ from the same model; with −1 no longer."""
        self.clients += times * other.clients
        self._take(other._merged(), times)
        self._many += [(name, values, times * its) for name, values, its in other._many]

    @property
    def places(self) -> int:
        """How many elements the tensors have."""
        return sum(base.numel() for base in self.base.values())

    def rows(self, places: range | None = None) -> Tensor:
        """All of it, or what is at these places, in one form, whatever it was made of: rows of place, value and times,
        in ascending order."""
        places = range(self.places) if places is None else places
        few, start = self._merged(), 0
        first, last = torch.searchsorted(few[0].contiguous(), torch.tensor([places.start, places.stop])).tolist()
        rows = [few[:, first:last]]
        for name, base in self.base.items():
            here = range(max(places.start - start, 0), min(places.stop - start, base.numel()))
            if here:
                rows += list(self._dense(name, torch.arange(here.start, here.stop), start))
            start += base.numel()
        return _combined(torch.cat(rows, dim=1))

    def include(self, clients: int, rows: Tensor) -> None:
        """Count so many clients more, of whom another's ``rows`` are."""
        self.clients += clients
        self._take(rows, 1)

    def finish(self) -> State:
        """The medians, in memory of their own. At least one client is counted."""
        few, state, start = self._merged(), {}, 0
        self._cancel()
        for name, base in self.base.items():
            first, last = torch.searchsorted(few[0].contiguous(), torch.tensor([start, start + base.numel()])).tolist()
            state[name] = self._median(name, base, few[:, first:last], start)
            start += base.numel()
        return state

    @property
    def _kept(self) -> int:
        return self._rows.shape[1] + self._waiting

    def _copy(self, name: str, given: Tensor) -> Tensor:
        try:
            memory = torch.frombuffer(self._scratch(given.nbytes), dtype=given.dtype)
        except NoRoom as error:
            raise TooDifferent(f"{name} differs in more integers from the model sent than there is room for") from error
        return memory[: given.numel()].view(given.shape).copy_(given)

    def _take(self, rows: Tensor, times: int) -> None:
        if rows.shape[1]:
            self._new.append(rows * torch.tensor([[1], [1], [times]]))
            self._waiting += rows.shape[1]
            if self._waiting > max(KEPT // 8, self._rows.shape[1]):
                self._merged()

    def _merged(self) -> Tensor:
        if self._new:
            self._rows = _combined(torch.cat([self._rows, *self._new], dim=1))
            self._new, self._waiting = [], 0
        return self._rows

    def _cancel(self) -> None:
        """Leave out tensors that were counted and are no longer."""
        for gone in [one for one in self._many if one[2] < 0]:
            for one in self._many:
                if one[0] == gone[0] and one[2] == -gone[2] and torch.equal(one[1], gone[1]):
                    self._many = [other for other in self._many if other is not one and other is not gone]
                    break

    def _dense(self, name: str, places: Tensor, start: int) -> Iterator[Tensor]:
        """Rows of the tensors that are kept whole, at these places, which count from ``start``."""
        old = self.base[name].reshape(-1)[places]
        for kept, values, times in self._many:
            if kept == name:
                here = values.reshape(-1)[places]
                differs = here != old
                found = places[differs]
                yield torch.stack([found + start, here[differs].to(torch.int64), torch.full_like(found, times)])

    def _median(self, name: str, base: Tensor, few: Tensor, start: int) -> Tensor:
        """One tensor's median, of rows and of the tensors kept whole."""
        median = base.reshape(-1).clone()
        many = sum(abs(times) for kept, _, times in self._many if kept == name)
        if not many:
            self._settle(median, few, start, boolean=base.dtype == torch.bool)
            return median.view(base.shape)
        step = max(1, WORK // many)
        for begin in range(0, base.numel(), step):
            places = torch.arange(begin, min(begin + step, base.numel()))
            bounds = torch.tensor([start + begin, start + begin + step])
            first, last = torch.searchsorted(few[0].contiguous(), bounds).tolist()
            rows = torch.cat([few[:, first:last], *self._dense(name, places, start)], dim=1)
            self._settle(median, _combined(rows), start, boolean=base.dtype == torch.bool)
        return median.view(base.shape)

    def _settle(self, median: Tensor, rows: Tensor, start: int, *, boolean: bool) -> None:
        """Set each element that enough clients changed. ``median`` has the values sent, ``rows`` are combined."""
        places, inverse = rows[0].unique_consecutive(return_inverse=True)  # type: ignore[no-untyped-call]
        changed = torch.zeros_like(places).index_add_(0, inverse, rows[2])
        wanted = changed > (self.clients - 1) // 2  # else they change nothing, whatever they say
        rows, places, changed = rows[:, wanted[inverse]], places[wanted], changed[wanted]
        if not len(places):
            return
        old = median[places - start].to(torch.int64)
        rows = _combined(torch.cat([rows, torch.stack([places, old, self.clients - changed])], dim=1))
        lower = self._ranked(rows, len(places), (self.clients - 1) // 2)
        if boolean:
            lower = torch.where(lower == self._ranked(rows, len(places), self.clients // 2), lower, old)
        median[places - start] = lower.to(median.dtype)

    def _ranked(self, rows: Tensor, places: int, rank: int) -> Tensor:
        """The value at ``rank``, from 0, of each place: all places have as many times as there are clients."""
        reached = rows[2].cumsum(0)
        first = torch.searchsorted(reached, torch.arange(places) * self.clients + rank, right=True)
        return rows[1][first]


def _combined(rows: Tensor) -> Tensor:
    """The rows in ascending order of place and value, each pair once and none zero times."""
    rows = rows[:, rows[1].argsort(stable=True)]
    rows = rows[:, rows[0].argsort(stable=True)]
    pairs, inverse = rows[:2].unique_consecutive(dim=1, return_inverse=True)  # type: ignore[no-untyped-call]
    times = torch.zeros(pairs.shape[1], dtype=torch.int64).index_add_(0, inverse, rows[2])
    return torch.vstack([pairs, times])[:, times != 0]


def _differing(given: Tensor, base: Tensor, most: int) -> Tensor | None:
    """Where the two differ; None where that is in more than ``most`` elements."""
    found, count = [], 0
    for start in range(0, len(base), CHUNK):
        differs = given[start : start + CHUNK] != base[start : start + CHUNK]
        count += int(differs.sum())
        if count > most:
            return None
        found.append(differs.nonzero().view(-1) + start)
    return torch.cat(found)
