"""Strategies of every kind that nodes meet: what is made of a sum, in an order, of all updates, by range or whole."""

import threading
from typing import ClassVar, Literal

import torch

from flserver.aggregation import FedAvg, State, Strategy


class Median(Strategy):
    """The lower median of each number, over all updates."""

    needs = "all"
    coordinatewise = True

    def begin(self, global_state: State) -> None:
        self.updates: list[State] = []

    def add(self, update: State, n: int) -> None:
        self.updates.append(update)

    def finish(self) -> State:
        return {name: self.ordered(name)[(len(self.updates) - 1) // 2].clone() for name in self.updates[0]}

    def ordered(self, name: str) -> torch.Tensor:
        """Each number's values in ascending order."""
        return torch.stack([one[name] for one in self.updates]).sort(dim=0, stable=True).values


class Trimmed(Median):
    """The mean of each number without the least and the greatest, added one after another: torch's own sum over all
    has other bits for other numbers of elements."""

    coordinatewise = True

    def finish(self) -> State:
        made = {}
        for name, first in self.updates[0].items():
            stack = self.ordered(name)
            inner = stack[1:-1] if len(stack) > 2 else stack
            total = torch.zeros(first.shape, dtype=torch.float64)
            for values in inner:
                total += values
            made[name] = (total / len(inner)).to(first.dtype)
        return made


class InOrder(Strategy):
    """Each update moves the model by half of what is left: one after another, and nothing is kept of them."""

    order: ClassVar[Literal["ascending", "any"]] = "ascending"
    coordinatewise = True

    def begin(self, global_state: State) -> None:
        self.model = {name: tensor.clone() for name, tensor in global_state.items()}

    def add(self, update: State, n: int) -> None:
        for name, tensor in self.model.items():
            if tensor.is_floating_point():
                tensor += (update[name] - tensor) * (n / 128)
            else:
                tensor.copy_(update[name])

    def finish(self) -> State:
        return self.model


class Clipped(InOrder):
    """The same with steps of one length, which is of all numbers of an update: it does not go by ranges."""

    coordinatewise = False

    def add(self, update: State, n: int) -> None:
        floating = [name for name, tensor in update.items() if tensor.is_floating_point()]
        length = sum(float((update[name].double() - self.model[name]).square().sum()) for name in floating) ** 0.5
        clipped = {
            name: self.model[name] + (tensor - self.model[name]) / max(length, 1e-9) if name in floating else tensor
            for name, tensor in update.items()
        }
        super().add(clipped, n)


class Nearest(Median):
    """The update that is nearest to the others, whole."""

    coordinatewise = False

    def finish(self) -> State:
        flat = [torch.cat([tensor.double().view(-1) for tensor in one.values()]) for one in self.updates]
        far = [sum(float((one - other).square().sum()) for other in flat) for one in flat]
        return {name: tensor.clone() for name, tensor in self.updates[far.index(min(far))].items()}


class Momentum(FedAvg):
    """The mean, and half of the last step once more: a round rests on the one before."""

    def __init__(self) -> None:
        super().__init__()
        self._step: State = {}

    def begin(self, global_state: State) -> None:
        super().begin(global_state)
        self._model = global_state

    def finish(self) -> State:
        mean = super().finish()
        for name, tensor in mean.items():
            if tensor.is_floating_point():
                step = tensor - self._model[name]
                tensor += self._step.get(name, torch.zeros_like(step)) / 2
                self._step[name] = step
        return mean

    def state(self) -> State:
        return self._step

    def load_state(self, state: State) -> None:
        self._step = dict(state)


class Largest(Strategy):
    """The largest of each number, which may be looked for anywhere, and is no exact sum."""

    order = "any"

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the next
        self._largest: State = {}

    def begin(self, global_state: State) -> None:
        self._largest = {}

    def add(self, update: State, n: int) -> None:
        with self._lock:
            there = self._largest or update
            self._largest = {name: torch.maximum(there[name], tensor) for name, tensor in update.items()}

    def partial(self) -> State:
        return self._largest

    def merge(self, partial: State) -> None:
        self.add(partial, 1)

    @property
    def finishes_anywhere(self) -> bool:
        return True

    def finish(self) -> State:
        return self._largest


class Doubled(FedAvg):
    """More than the mean of a sum, and of nothing else: any node that has all of it may make that."""

    @property
    def finishes_anywhere(self) -> bool:
        return True

    def finish(self) -> State:
        return {name: tensor * 2 if tensor.is_floating_point() else tensor for name, tensor in super().finish().items()}


KINDS = (Median, Trimmed, InOrder, Clipped, Nearest, Momentum, Largest, Doubled)
ALL = ("fedavg", *(f"{kind.__module__}:{kind.__name__}" for kind in KINDS))
