"""FedAvg: the mean of the clients' models, weighted by their numbers of samples (McMahan et al., 2017).

    new = Σ nᵢ·wᵢ / Σ nᵢ

The sum is exact and rounded once (``aggregation.sums``), so equal updates give equal bits, in whatever order they came,
and on every machine. Integer and boolean tensors take the median (``medians``).
"""

from collections.abc import Sequence
from threading import Lock

from flserver.aggregation.medians import Difference
from flserver.aggregation.strategy import Strategy
from flserver.aggregation.sums import ARITHMETIC, ExactSum
from flserver.models.state import State


class FedAvg(Strategy):
    """The weighted mean, in memory that does not depend on the number of clients."""

    arithmetic = ARITHMETIC
    order = "any"

    def __init__(self) -> None:
        self._sum = ExactSum({})
        self._locks: Sequence[Lock] = ()  # each guards the part of the sum with its number
        self._counting = Lock()  # guards all else of the sum, and what follows
        self._adds = 0
        self._reserved: dict[int, Difference] = {}

    def begin(self, global_state: State) -> None:
        """See :meth:`Strategy.begin`. The sum's memory is kept as long as the layout stays."""
        self._reserved.clear()
        if not self._sum.begin(global_state):
            self._sum = ExactSum(global_state, self._memory)
            self._locks = [Lock() for _ in self._sum.parts]

    def reserve(self, update: State) -> None:
        """See :meth:`Strategy.reserve`: what is kept of an update's integers."""
        difference = self._sum.medians.difference(update)
        with self._counting:
            self._reserved[id(update)] = difference

    def unreserve(self, update: State) -> None:
        """See :meth:`Strategy.unreserve`."""
        with self._counting:
            self._reserved.pop(id(update), None)

    def add(self, update: State, n: int) -> None:
        """See :meth:`Strategy.add`. The update's memory is not needed any more afterwards. Raises TooDifferent where
        the update has nothing reserved and there is no room for its integers; then nothing was added."""
        with self._counting:
            difference = self._reserved.pop(id(update), None)
        tensors, parts = self._sum.tensors(update), self._sum.parts
        difference = difference or self._sum.medians.difference(update)
        with self._counting:
            self._sum.count(difference, n)
            self._adds += 1
            first = self._adds
        # Who comes at the same time begins elsewhere, and all follow one another around.
        for step in range(len(parts)):
            which = (first + step) % len(parts)
            with self._locks[which]:
                self._sum.add_to(parts[which], tensors, n)

    def subtract(self, update: State, n: int) -> None:
        """See :meth:`Strategy.subtract`: exact, of the medians too."""
        with self._counting:
            self._sum.subtract(update, n)

    def finish(self) -> State:
        """See :meth:`Strategy.finish`. At least one update was added."""
        return self._sum.mean()

    def _memory(self, size: int) -> memoryview:
        with self._counting:
            return self.scratch(size)
