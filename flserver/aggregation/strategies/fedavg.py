"""FedAvg: the mean of the clients' models, weighted by their numbers of samples (McMahan et al., 2017).

    new = Σ nᵢ·wᵢ / Σ nᵢ

The sum is exact and rounded once (``aggregation.sums``), so equal updates give equal bits, in whatever order they came,
and on every machine. Integer and boolean tensors take the median (``medians``).
"""

from collections.abc import Sequence
from threading import Lock

from torch import Tensor

from flserver.aggregation.medians import Difference
from flserver.aggregation.strategy import Strategy
from flserver.aggregation.sums import ARITHMETIC, ExactSum
from flserver.errors import NoRoom, TooDifferent
from flserver.models.state import State


class FedAvg(Strategy):
    """The weighted mean, in memory that does not depend on the number of clients."""

    arithmetic = ARITHMETIC
    order = "any"

    def __init__(self) -> None:
        self._sum = ExactSum({})
        self._locks: Sequence[Lock] = ()  # each guards the part of the sum with its number
        self._counting = Lock()  # guards all else of the sum, and what follows
        self._folds = 0
        self._reserved: dict[int, Difference] = {}

    def begin(self, global_state: State) -> None:
        """See :meth:`Strategy.begin`. The sum's memory is kept as long as the layout stays. Raises NoRoom where there
        is none for the usual numbers of a model."""
        self._reserved.clear()
        if not self._sum.begin(global_state):
            self._sum = ExactSum(global_state, self._memory)
            self._locks = [Lock() for _ in self._sum.parts]
        for part in self._sum.parts:
            part.make_sure(self._memory)

    def reserve(self, update: State, n: int) -> None:
        """See :meth:`Strategy.reserve`. How many bins an update's numbers need shows when they are split, so they are
        folded here already; it does not count before it is added."""
        difference = self._sum.medians.difference(update)
        tensors, parts = self._sum.tensors(update), self._sum.parts
        with self._counting:
            self._folds += 1
            first = self._folds
        # Who comes at the same time begins elsewhere, and all follow one another around.
        turns = [(first + step) % len(parts) for step in range(len(parts))]
        for done, which in enumerate(turns):
            try:
                with self._locks[which]:
                    self._sum.add_to(parts[which], tensors, n)
            except NoRoom as error:
                self._take_back(tensors, n, turns[:done])
                raise TooDifferent("its numbers are of more magnitudes than there is room to add exactly") from error
        with self._counting:
            self._reserved[id(update)] = difference

    def unreserve(self, update: State, n: int) -> None:
        """See :meth:`Strategy.unreserve`."""
        with self._counting:
            reserved = self._reserved.pop(id(update), None)
        if reserved is not None:
            self._take_back(self._sum.tensors(update), n, range(len(self._sum.parts)))

    def _take_back(self, tensors: Sequence[Tensor], n: int, parts: Sequence[int]) -> None:
        for which in parts:
            with self._locks[which]:
                self._sum.take_from(self._sum.parts[which], tensors, n)

    def add(self, update: State, n: int) -> None:
        """See :meth:`Strategy.add`. The update's memory is not needed any more afterwards. Raises TooDifferent where
        it was not reserved for and there is no room for it; then nothing was added."""
        if id(update) not in self._reserved:
            self.reserve(update, n)
        with self._counting:
            self._sum.count(self._reserved.pop(id(update)), n)

    def subtract(self, update: State, n: int) -> None:
        """See :meth:`Strategy.subtract`: exact, of the medians too."""
        with self._counting:
            self._sum.subtract(update, n)

    @property
    def exact_sum(self) -> ExactSum:
        """What was added since ``begin``; to be read only."""
        return self._sum

    @property
    def finishes_anywhere(self) -> bool:
        """See :attr:`Strategy.finishes_anywhere`: the mean does, and what a subclass makes of it need not."""
        return type(self).finish is FedAvg.finish

    def partial(self) -> State:
        """See :meth:`Strategy.partial`: the sum in its canonical form."""
        return self._sum.save()

    def merge(self, partial: State) -> None:
        """See :meth:`Strategy.merge`: exact, of the medians too."""
        other = self._sum.empty()
        other.load(partial)
        with self._counting:
            self._sum.merge(other)

    def finish(self) -> State:
        """See :meth:`Strategy.finish`. At least one update was added."""
        return self._sum.mean()

    def _memory(self, size: int) -> memoryview:
        with self._counting:
            return self.scratch(size)
