"""The coordinator's desk for its nodes: it answers what they ask with the one exchange, and rings their bells.

To the coordinator it makes models ready to be sent (``rounds.broadcast.Broadcasts``) and brings the nodes' parts of a
round together (``Committer``'s ``gathers``). ``place`` has what belongs to one node.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flserver.clock import Deadline
from flserver.errors import CheckpointError, FlserverError, StoreError, TooDifferent
from flserver.events import NodeHead, NodeStarted
from flserver.events.bus import Recorder
from flserver.ingest import told as t
from flserver.ingest.batches import raw_of, state_like, to_state
from flserver.ingest.flusher import Flusher
from flserver.ingest.held import settle_all
from flserver.ingest.ids import Ids, Names
from flserver.ingest.place import Place
from flserver.rounds.exchange import Exchange
from flserver.rounds.model import CurrentModel
from flserver.rounds.seats import Attempt
from flserver.store.node_chain import NodeChain

if TYPE_CHECKING:  # torch is not there yet when trainers register
    from flserver.aggregation import State, Strategy
    from flserver.models.kept import Kept

logger = logging.getLogger(__name__)

SETTLE_SECONDS = 120.0  # that a node has to fold what waits there, and to give its sum away

Carry = Callable[[int, "State"], None]
Finish = Callable[[int, int, Sequence[str]], "State"]
Parts = Mapping[Place, frozenset[int]]  # who has which updates of an attempt


class NodeGone(FlserverError):
    """The node ``name`` went away while the nodes' sums were brought together; ``str`` says how that showed."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(why)
        self.name = name


@dataclass(frozen=True)
class OnNodes:
    """A model that nodes have the bytes of, under that ``number``."""

    number: int
    small: bool


class Desk:
    """``ids`` gives the numbers that nodes may use; ``small`` says whether a socket may take a whole model at once."""

    def __init__(self, exchange: Exchange, recorder: Recorder, ids: Ids) -> None:
        self._exchange, self._recorder, self._ids = exchange, recorder, ids
        self.small, self.named = False, Names()
        self.goes_on_after: State | None = None  # the model of the round before the last one, of a run that goes on
        self.kept: Kept | None = None  # where nodes keep updates, if they do
        self._strategy: Strategy | None = None
        self._added_again = False  # whether some of the attempt's updates are in the coordinator's own strategy
        self._changed = threading.Condition()  # guards the six below; notified where a place has settled, or ended
        self._places: dict[str, Place] = {}
        self._known: dict[str, t.Known] = {}
        self._number = 0
        self._model: tuple[State, OnNodes] | None = None
        self._before: State | None = None  # the model of the round before the one that nodes have
        self._began: t.Began | None = None
        self._ended: dict[str, NodeChain] = {}  # the events of those that are gone, not named by a round yet
        self._flusher = Flusher(recorder)
        self.carry: Carry | None = None
        self.finish: Finish | None = None

    # --- nodes -------------------------------------------------------------------------------------------------------

    def open(self, name: str, started: NodeStarted | None = None) -> Place:
        """A node of that name is there, with nothing of a former one; what ``started`` it goes on record."""
        place = Place(name, self, self._exchange, self._recorder, self._flusher, self._ids, started)
        with self._changed:
            if name in self._places:
                raise ValueError(f"there is a node {name} already")
            self._places[name] = place
            for known in self._known.values():
                place.outbox.put(known)
        return place

    def be_ready(self, place: Place) -> None:
        """The node can take a model: the one that there is, and the attempt that runs."""
        with self._changed:
            place.ready = True
            if self._model is not None:
                state, model = self._model
                self._give(place, state, model.number, self._before)
            # While a round is committed there is its model already: the next attempt's, which is told them all.
            if self._began is not None and self._model is not None and self._began.model == self._model[1].number:
                place.outbox.put(self._began)

    def know(self, client_id: str) -> None:
        """Who registered that client has changed: every node is told."""
        with self._changed:
            peer, there = self._exchange.registered(client_id)
            known = t.Known(client_id, peer, there)
            self._known[client_id] = known
            for place in self._places.values():
                place.outbox.put(known)

    def heads(self) -> tuple[NodeHead, ...]:
        """Of the events that each node has given so far; of one that is gone, once more."""
        with self._changed:
            chains = {name: place.chain for name, place in self._places.items()} | self._ended
            self._ended = {}
        named = ((name, *chain.now) for name, chain in chains.items())
        return tuple(NodeHead(node=name, events=count, head=head) for name, count, head in named if count)

    def over(self, place: Place) -> None:
        """Called by a place of which nothing more comes, and all is on record."""
        with self._changed:
            self._ended[place.name] = place.chain
            if self._places.get(place.name) is place:
                del self._places[place.name]
            self._changed.notify_all()

    def settled(self) -> None:
        """Called by a place that has settled."""
        with self._changed:
            self._changed.notify_all()

    @property
    def names(self) -> list[str]:
        """The nodes that there are."""
        with self._changed:
            return list(self._places)

    @property
    def base_round(self) -> int | None:
        """The round of the model that updates are held against now."""
        return None if (began := self._began) is None else began.round - 1

    def make_durable(self) -> None:
        """Wait until all that was said is on record, or cannot be."""
        with suppress(StoreError):  # the run ends of that
            self._recorder.flush()

    def reload(self) -> None:
        """Certificates and the roster are to be read again, by every node."""
        self._tell(t.Reload())

    def keep_with(self, kept: "Kept | None", strategy: "Strategy") -> None:
        """Updates are ``kept``, or not: what was, and is lost with a node, can be added again, to this ``strategy``."""
        self.kept, self._strategy = kept, strategy

    def add_again(self, round: int, digest: str, samples: int) -> bool:
        """Add an update again that was kept; False where it cannot be read any more."""
        from flserver.aggregation.checks import state_digest

        assert self.kept is not None
        assert self._strategy is not None
        try:
            self._strategy.add(self.kept.again(round, digest, state_digest), samples)
            self._added_again = True
        except (CheckpointError, TooDifferent) as error:
            logger.error("an update of round %d is lost, though it was kept: %s", round, error)
            return False
        return True

    def _tell(self, bell: t.Bell) -> None:
        with self._changed:
            for place in self._places.values():
                place.outbox.put(bell)

    # --- models ------------------------------------------------------------------------------------------------------

    def render(self, state: "State") -> OnNodes:
        """See ``rounds.broadcast.Broadcasts``: every node is given the model."""
        with self._changed:
            if self._model is not None and self._model[0] is state:
                return self._model[1]
            self._number += 1
            before, self.goes_on_after = self._model[0] if self._model is not None else self.goes_on_after, None
            self._model, self._before = (state, OnNodes(self._number, self.small)), before
            if self.carry is not None:
                self.carry(self._number, state)
            for place in self._places.values():
                if place.ready:
                    self._give(place, state, self._number, before)
            return self._model[1]

    def _give(self, place: Place, state: "State", number: int, before: "State | None") -> None:
        before_it = raw_of(before) if before is not None and not place.has_model else ()
        place.has_model = True
        place.outbox.put(t.Model(number, raw_of(state) if self.carry is None else (), before_it))

    def announce(self, attempt: Attempt, model: CurrentModel) -> None:
        """See ``rounds.broadcast.Broadcasts``: every node is told, before anybody has a ticket."""
        with self._changed:
            assert self._model is not None
            self._added_again = False
            self._began = t.Began(attempt.round, attempt.number, self._model[1].number, model.digest)
            for place in self._places.values():
                place.held.begin()
                if place.ready:
                    place.outbox.put(self._began)

    # --- sums --------------------------------------------------------------------------------------------------------

    def gather(self, attempt: Attempt, strategy: "Strategy") -> "State | None":
        """Bring the nodes' parts of an attempt that is over into ``strategy``, or give the new state, where ``finish``
        makes it and nothing of it is here, or one node has all. What was folded by nodes that are gone by now is lost,
        and on record as that, or was kept and is added here: then the others are asked anew.

        Raises what ``finish`` and the strategy raise.
        """
        while parts := self._parts():
            anywhere = strategy.finishes_anywhere and not self._added_again
            if anywhere and self.finish is not None:
                if (made := self._finished(attempt, parts, self.finish)) is not None:
                    return made
            elif anywhere and len(parts) == 1 and self._model is not None:
                for blobs in self._sums(attempt, parts, made=True):
                    return state_like(self._model[0], blobs)
            else:
                for blobs in self._sums(attempt, parts):
                    strategy.merge(to_state(blobs))
                return None
        return None

    def _parts(self) -> Parts:
        """Who has which updates of the attempt, once all that nodes which go had is lost, or added again."""
        with self._changed:
            while True:  # the updates first: a place loses them only when it is ending
                parts = {place: ids for place in self._places.values() if (ids := place.held.ids)}
                if not any(place.ending for place in self._places.values()):
                    return parts
                self._changed.wait()

    def _finished(self, attempt: Attempt, parts: Parts, finish: Finish) -> "State | None":
        """The new state as ``finish`` makes it; None where a node went meanwhile, and nothing is settled."""
        self._settle(attempt, parts, whole=False)
        if not all(map(self._is_here, parts)):
            return None
        try:
            state = finish(attempt.round, attempt.number, [place.name for place in parts])
        except NodeGone as error:
            for place in parts:
                if place.name == error.name:
                    self._end(place, str(error))
            return None
        return state if settle_all({place.held: ids for place, ids in parts.items()}) else None

    def _sums(self, attempt: Attempt, parts: Parts, *, made: bool = False) -> Iterator[Sequence[memoryview]]:
        """What each gave that is not gone: its sum, or what is ``made`` of it; one at a time is kept here no more."""
        self._settle(attempt, parts, whole=True, made=made)
        for place in parts:
            if (blobs := place.held.take()) is not None:
                yield blobs

    def _settle(self, attempt: Attempt, parts: Parts, *, whole: bool, made: bool = False) -> None:
        """Wait until each has folded all that counts, or is gone. One whose sum is not of what counts is."""
        deadline = Deadline.after(SETTLE_SECONDS)
        with self._changed:
            for place in parts:
                place.held.settle(attempt.round, attempt.number, whole=whole, made=made)
            self._changed.wait_for(lambda: not any(map(self._awaited, parts)), deadline.remaining())
        self._exchange.check_failure()
        for place in parts:
            if self._is_here(place) and (place.ending or not place.held.is_settled):
                self._end(place, place.held.fault or f"it has not given its sum within {SETTLE_SECONDS:g} s")

    def _end(self, place: Place, why: str) -> None:
        """Take a node for gone, and wait until that is on record."""
        place.gone(why)
        with self._changed:
            self._changed.wait_for(lambda: not self._is_here(place))

    def _is_here(self, place: Place) -> bool:
        return self._places.get(place.name) is place

    def _awaited(self, place: Place) -> bool:
        return self._is_here(place) and (place.ending or not place.held.has_answered) and not self._exchange.failing

    # --- the end -----------------------------------------------------------------------------------------------------

    def close(self, grace: float, patience: float) -> None:
        """The run is over: sessions have ``grace`` seconds to say goodbye. Waits until every node has ended, and takes
        those for gone that have not within ``patience`` seconds more."""
        self._tell(t.Close(grace))
        with self._changed:
            self._changed.wait_for(lambda: not self._places, grace + patience)
            left = list(self._places.values())
        for place in left:
            place.gone("it has not ended in time")
        with self._changed:
            self._changed.wait_for(lambda: not self._places)
        self._flusher.close()
