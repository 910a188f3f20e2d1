"""What the nodes have of an attempt that is over is brought together, in one of these ways:

- each node makes the new model in a range of it, where the strategy lets it, and an engine brings them together;
- one node that has all makes it;
- the nodes' sums are merged here;
- updates that stayed at their nodes are given to the strategy here, in ascending order of the clients' ids, one at a
  time.

What nodes that went had alone is lost, and on record as that, or was kept and is added here: then the others are asked
anew.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from flserver.errors import CheckpointError, TooDifferent
from flserver.ingest.batches import state_like, to_state
from flserver.ingest.engine import Engine, NodeGone
from flserver.ingest.held import Kept, settle_all
from flserver.ingest.places import Parts, Places
from flserver.rounds.seats import Attempt

if TYPE_CHECKING:  # torch is not there yet when trainers register
    from flserver.aggregation import State, Strategy
    from flserver.models.kept import Kept as KeptUpdates

logger = logging.getLogger(__name__)

AT_ONCE = 1 << 26  # bytes of updates that a node has of others, while a range is made of them


class Gathering:
    """``model`` is the one that updates answer; ``kept`` is where updates are kept, if they are, and ``strategy`` what
    they are added to here. For the coordinator's thread, but for ``add_again``."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self.engine: Engine | None = None
        self.kept: KeptUpdates | None = None
        self.strategy: Strategy | None = None
        self._summed_again = False  # whether some of the attempt's updates are in the coordinator's own strategy
        self._again: dict[int, Kept] = {}  # those that are to be read again when it is their turn

    def begin(self) -> None:
        """An attempt begins: nothing of it was added here."""
        self._summed_again, self._again = False, {}

    def add_again(self, kept: Kept) -> bool:
        """Add an update again that was kept; False where it cannot be read any more."""
        assert self.strategy is not None
        if self.strategy.splits and not kept.certain:
            return False  # what is in a sum counts
        try:
            update = self._read(kept)
            if self.strategy.splits:
                self.strategy.add(update, kept.samples)
                self._summed_again = True
            else:
                self._again[kept.update_id] = kept
        except (CheckpointError, TooDifferent) as error:
            logger.error("an update of round %d is lost, though it was kept: %s", kept.round, error)
            return False
        return True

    def _read(self, kept: Kept) -> "State":
        from flserver.aggregation.checks import state_digest

        assert self.kept is not None
        return self.kept.again(kept.round, kept.digest, state_digest)

    def gather(self, attempt: Attempt, strategy: "Strategy", model: "State") -> "State | None":
        """Bring all of the attempt into ``strategy``, or give the new state, where nothing of it is here and nodes make
        it. Raises what the engine and the strategy raise."""
        size = sum(tensor.nbytes for tensor in model.values())
        while (parts := self._places.parts()) and self._made_anywhere(strategy):
            if self.engine is not None and self._by_range(self.engine, strategy, size):
                made = self._finished(self.engine, attempt, parts, 0 if strategy.splits else size)
            elif len(parts) == 1:
                made = next((state_like(model, blobs) for blobs in self._sums(attempt, parts, made=True)), None)
            else:
                break
            if made is not None:
                return made
        if strategy.splits:
            for blobs in self._sums(attempt, parts):
                strategy.merge(to_state(blobs))
        else:
            self._in_order(attempt, strategy, model, parts)
        return None

    def _made_anywhere(self, strategy: "Strategy") -> bool:
        if strategy.splits:
            return strategy.finishes_anywhere and not self._summed_again
        return strategy.by_range and self.engine is not None and not self._again

    @staticmethod
    def _by_range(engine: Engine, strategy: "Strategy", size: int) -> bool:
        """Whether nodes make the model by range where they may make it: of a sum only where it can be cut, and that is
        worth it."""
        from flserver.aggregation.ranges import sum_of

        return not strategy.splits or (size >= engine.least and sum_of(strategy) is not None)

    # --- by range ----------------------------------------------------------------------------------------------------

    def _finished(self, engine: Engine, attempt: Attempt, parts: Parts, update: int) -> "State | None":
        """The new state as the engine makes it, of sums, or of updates of so many bytes each; None where a node went
        meanwhile, and nothing is settled."""
        self._places.settle(attempt.round, attempt.number, parts, whole=False)
        if not all(map(self._places.has, parts)):
            return None
        others = update * sum(map(len, parts.values())) // len(parts)
        try:
            turns = 1 + others // AT_ONCE
            state = engine.finish(attempt.round, attempt.number, [place.name for place in parts], turns)
        except NodeGone as error:
            for place in parts:
                if place.name == error.name:
                    self._places.end(place, str(error))
            return None
        return state if settle_all({place.held: ids for place, ids in parts.items()}) else None

    # --- here --------------------------------------------------------------------------------------------------------

    def _sums(self, attempt: Attempt, parts: Parts, *, made: bool = False) -> Iterator[Sequence[memoryview]]:
        """What each gave that is not gone: its sum, or what is ``made`` of it; one at a time is kept here no more."""
        self._places.settle(attempt.round, attempt.number, parts, whole=True, made=made)
        for place in parts:
            if (blobs := place.held.take()) is not None:
                yield blobs

    def _in_order(self, attempt: Attempt, strategy: "Strategy", model: "State", parts: Parts) -> None:
        """Give the strategy each update that counts. One whose node goes before it has given it is lost, or read again
        here."""
        self._places.settle(attempt.round, attempt.number, parts, whole=False)
        where = {update_id: place for place, ids in parts.items() for update_id in ids}
        for seat in attempt.seats.values():
            if not seat.counts or seat.update_id is None:
                continue
            blobs = None
            if (place := where.get(seat.update_id)) is not None:
                self._places.await_given(place, seat.update_id)
                blobs = place.held.take_given(seat.update_id)
            if blobs is not None:
                strategy.add(_counted(strategy, state_like(model, blobs)), seat.counted_size)
            elif (kept := self._again.get(seat.update_id)) is not None:
                strategy.add(_counted(strategy, self._read(kept)), seat.counted_size)


def _counted(strategy: "Strategy", update: "State") -> "State":
    """The update in memory that is counted, for as long as the strategy has it. Raises NoRoom."""
    from flserver.models.state import state_bytes, state_over

    there = state_over(strategy.scratch(state_bytes(update)), update)
    for name, tensor in there.items():
        tensor.copy_(update[name])
    return there
