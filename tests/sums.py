"""Small strategies: one that takes updates in any order, as they arrive, and one that takes them in turn."""

import threading
from collections.abc import Callable

import torch

from flserver.aggregation import State, Strategy


class AnyOrder(Strategy):
    """The weighted mean of updates whose products with their numbers of samples are integers: exact in float64, so in
    any order. ``before`` is called before each ``reserve``, ``unreserve`` and ``add``, with the word and the update."""

    order = "any"

    def __init__(self, before: Callable[[str, State], object] = lambda what, update: None) -> None:
        self.before = before
        self.threads: list[str] = []  # that have added, by name
        self.begun = 0
        self._lock = threading.Lock()  # guards what follows
        self._sums: State = {}
        self._total = 0

    def begin(self, global_state: State) -> None:
        self.begun += 1
        self._like = global_state
        self._sums = {name: torch.zeros(t.shape, dtype=torch.float64) for name, t in global_state.items()}
        self._total = 0

    def reserve(self, update: State, n: int) -> None:
        self.before("reserve", update)

    def unreserve(self, update: State, n: int) -> None:
        self.before("unreserve", update)

    def add(self, update: State, n: int) -> None:
        self.before("add", update)
        with self._lock:
            self.threads.append(threading.current_thread().name)
            self._total += n
            for name, total in self._sums.items():
                total.add_(update[name].to(torch.float64), alpha=n)

    def finish(self) -> State:
        return {name: (total / self._total).to(self._like[name].dtype) for name, total in self._sums.items()}


class InTurn(AnyOrder):
    """The same, but in ascending order of the ids."""

    order = "ascending"
