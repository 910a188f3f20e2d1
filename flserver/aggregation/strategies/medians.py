"""Medians of the tensors that have no mean: integers, such as BatchNorm's counters, and booleans.

Each element of the new model is the lower median over the clients, each counted once, for the weight is what a client
says of itself. So no value of a minority's choosing gets through, and the result does not depend on the order. A
boolean takes the majority's value; a tie leaves it as it was.

An element that more than half of the clients left as it was sent keeps that value, so only what differs is kept of an
update: a few elements as their places and values, as long as there is room for them; tensors that differ in more are
looked at again at the end, where they lie.
"""

import torch
from torch import Tensor

from flserver.models.state import State

FEW = 1 << 12  # elements of one update that are kept by their places
KEPT = 1 << 20  # of all updates together, 16 bytes each
OVERHEAD = 1 << 6  # elements, that an update takes which differs in one
WORK = 1 << 20  # elements sorted at a time
CHUNK = 1 << 18  # elements compared at a time

NONE = torch.empty(0, dtype=torch.int64)


class Medians:
    """The medians of one round. ``add`` every client's update, then ``finish``."""

    def __init__(self) -> None:
        self.begin({})

    def begin(self, global_state: State) -> None:
        """Start anew from the global model that was sent out, which stays as it is until ``finish``."""
        self._base = {name: tensor for name, tensor in global_state.items() if not tensor.is_floating_point()}
        self._clients = self._kept = 0
        # By update: its number, then places and values. A place counts the elements of all tensors, one after another.
        self._few: list[tuple[Tensor, Tensor, Tensor]] = []
        self._many: dict[str, list[Tensor]] = {name: [] for name in self._base}

    def add(self, update: State, *, hold: bool) -> bool:
        """Take one client's tensors; whether some of them must stay valid until ``finish``: never without ``hold``."""
        room, holds, start = min(FEW, KEPT - self._kept - OVERHEAD), False, 0
        places, values = [], []
        for name, base in self._base.items():
            given = update[name]
            if not torch.equal(given, base):
                found = _differing(given.reshape(-1), base.reshape(-1), room)
                if found is None:
                    self._many[name].append(given if hold else given.clone())
                    holds = hold
                else:
                    room -= len(found)
                    places.append(found + start)
                    values.append(given.take(found).to(torch.int64))
            start += base.numel()
        if places:
            kept = torch.cat(places)
            self._few.append((torch.full_like(kept, self._clients), kept, torch.cat(values)))
            self._kept += len(kept) + OVERHEAD
        self._clients += 1
        return holds

    def finish(self) -> State:
        """The medians, in memory of their own. At least one update was added."""
        clients, places, values = (torch.cat(column) for column in zip((NONE, NONE, NONE), *self._few, strict=True))
        order = places.argsort()
        clients, places, values = clients[order], places[order], values[order]
        state, start = {}, 0
        for name, base in self._base.items():
            bounds = torch.tensor([start, start + base.numel()])
            first, last = torch.searchsorted(places, bounds).tolist()
            few = (clients[first:last], places[first:last] - start, values[first:last])
            state[name] = self._median(base, *few, self._many[name])
            start += base.numel()
        self.begin({})
        return state

    def _median(self, base: Tensor, clients: Tensor, places: Tensor, values: Tensor, many: list[Tensor]) -> Tensor:
        """One tensor's median: of ``many``, which differ in many elements; of those ``clients`` that have these values
        at these places, which ascend; and of ``base``."""
        median = base.reshape(-1).clone()
        differing, rows = clients.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        count, outvoted = len(many) + len(differing), (self._clients - 1) // 2
        if count > outvoted:  # else they change nothing, whatever they say
            wanted, times = places.unique(return_counts=True)  # type: ignore[no-untyped-call]
            wanted = torch.arange(median.numel()) if many else wanted[times > outvoted]
            step = max(1, WORK // count)
            for start in range(0, len(wanted), step):
                here = wanted[start : start + step]
                old = median[here].to(torch.int64)
                table = old.repeat(count, 1)
                for row, tensor in enumerate(many, len(differing)):
                    table[row] = tensor.take(here)
                column = torch.searchsorted(here, places).clamp_(max=len(here) - 1)
                inside = here[column] == places
                table[rows[inside], column[inside]] = values[inside]
                median[here] = self._of(table, old, boolean=base.dtype == torch.bool).to(base.dtype)
        return median.view(base.shape)

    def _of(self, table: Tensor, old: Tensor, *, boolean: bool) -> Tensor:
        """The medians of the columns of ``table``, to which as many rows of ``old`` belong as it is short of the
        clients."""
        table = table.sort(dim=0).values
        lower = self._ranked(table, old, (self._clients - 1) // 2)
        if not boolean:
            return lower
        upper = self._ranked(table, old, self._clients // 2)
        return torch.where(lower == upper, lower, old)

    def _ranked(self, table: Tensor, old: Tensor, rank: int) -> Tensor:
        """What stands at ``rank``, from 0, of each column's values in ascending order, those of ``old`` among them."""
        more = self._clients - len(table)
        smaller = (table < old).sum(dim=0)
        before = table[rank] if rank < len(table) else old
        after = table[rank - more] if rank >= more else old
        return torch.where(smaller > rank, before, torch.where(smaller + more > rank, old, after))


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
