"""A node's part in making a new model: what it has of an attempt that is over, cut by ranges, and the model in one.

Whoever connects the nodes carries what one has cut to the one that makes the range.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from flserver.errors import StoreError
from flserver.ingest.folding import NodeFolding

if TYPE_CHECKING:  # torch is not there yet when trainers register
    from flserver.aggregation import State
    from flserver.aggregation.ranges import Range
    from flserver.models.state import Pieces

T = TypeVar("T")


class Making:
    """For many threads."""

    def __init__(self, folding: NodeFolding) -> None:
        self._folding = folding
        # Held while what was folded is read, which brings a sum into its canonical form, and while it is forgotten.
        self._lock = threading.Lock()
        self._attempt: tuple[int, int] | None = None
        self._model: State = {}

    def begin(self, round: int, attempt: int, model: "State") -> None:
        """An attempt begins from that model: forget the one before."""
        with self._lock:
            self._folding.begin(model)
            self._attempt, self._model = (round, attempt), model

    def is_of(self, round: int, attempt: int) -> bool:
        """Whether that attempt began last."""
        return self._attempt == (round, attempt)

    def cut(
        self, round: int, attempt: int, numbers: Sequence[int], count: int, give: "Callable[[Sequence[Pieces]], T]"
    ) -> "T":
        """What it has of the attempt, once the desk has settled it, in some of ``count`` ranges: as ``give`` makes it
        of that, while nothing is added. Raises StoreError, and what ``give`` raises."""
        with self._lock:
            return give([self._cut(self._range(round, attempt, number, count)) for number in numbers])

    def made(self, round: int, attempt: int, number: int, count: int, others: "Iterable[State]") -> "State":
        """The new model in one of ``count`` ranges: of what it has there, and of what ``others`` have. Raises
        StoreError, and what the strategy raises."""
        from flserver.aggregation.cuts import take
        from flserver.aggregation.ranges import in_range, made, sum_over
        from flserver.models.state import together

        with self._lock:
            within, strategy = self._range(round, attempt, number, count), self._folding.strategy
            assert strategy is not None
            if strategy.splits and count == 1:
                return in_range(strategy.finish(), within)
            if not strategy.splits:
                own = together(self._cut(within))
                return made(strategy, in_range(self._model, within), [own, *others])
            model = in_range(self._model, within)
        total = sum_over(model, others)  # not locked: some may still be cut, and theirs wait for this node's
        with self._lock:
            take(total, self._cut(self._range(round, attempt, number, count)))
        return total.mean()

    def _range(self, round: int, attempt: int, number: int, count: int) -> "Range":
        from flserver.aggregation.ranges import ranges

        if self._attempt != (round, attempt):
            raise StoreError(f"this node has nothing of attempt {attempt} of round {round}")
        return ranges(self._model, count)[number]

    def _cut(self, within: "Range") -> "Pieces":
        from flserver.aggregation.ranges import cut, cut_updates, sum_of

        strategy = self._folding.strategy
        assert strategy is not None
        if (total := sum_of(strategy)) is not None:
            return cut(total, within)
        return cut_updates(self._folding.counted(), within)
