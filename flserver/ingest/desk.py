"""The coordinator's desk for its nodes: it answers what they ask with the one exchange, and rings their bells.

To the coordinator it makes models ready to be sent (``rounds.broadcast.Broadcasts``) and brings the nodes' parts of a
round together (``Committer``'s ``gathers``). ``place`` has what belongs to one node.
"""

import logging
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flserver.errors import StoreError
from flserver.events import NodeHead, NodeStarted
from flserver.events.bus import Recorder
from flserver.identity.roster import Member
from flserver.ingest import told as t
from flserver.ingest.batches import raw_of
from flserver.ingest.engine import Engine
from flserver.ingest.flusher import Flusher
from flserver.ingest.gathering import Gathering
from flserver.ingest.held import Kept
from flserver.ingest.ids import Ids, Names
from flserver.ingest.place import Place
from flserver.ingest.places import Places
from flserver.rounds.exchange import Exchange
from flserver.rounds.model import CurrentModel
from flserver.rounds.seats import Attempt
from flserver.store.node_chain import NodeChain

if TYPE_CHECKING:  # torch is not there yet when trainers register
    from flserver.aggregation import State, Strategy
    from flserver.models.kept import Kept as KeptUpdates

logger = logging.getLogger(__name__)

OTHER_LAYOUT = "its model has other tensors than the server's: what --model is made of has changed, or is another there"


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
        self._places = Places(exchange)
        self._gathering = Gathering(self._places)
        # While nodes are told of an attempt, and no longer; taken inside the one below.
        self._telling = threading.Lock()
        self._changed = self._places.changed  # guards the places, and the eight below
        self._known: dict[str, t.Known] = {}  # who registered which client, where somebody did
        self._number = 0
        self._model: tuple[State, OnNodes] | None = None
        self._before: State | None = None  # the model of the round before the one that nodes have
        self._began: t.Began | None = None
        self._reloaded: t.Reload | None = None  # the last one
        self._layout: str | None = None  # as the server's model has it, once that is known
        self._ended: dict[str, NodeChain] = {}  # the events of those that are gone, not named by a round yet
        self._flusher = Flusher(recorder)

    # --- nodes -------------------------------------------------------------------------------------------------------

    def open(self, name: str, started: NodeStarted | None = None) -> Place:
        """A node of that name is there, with nothing of a former one; what ``started`` it goes on record."""
        place = Place(name, self, self._exchange, self._recorder, self._flusher, self._ids, started)
        with self._changed:
            self._places.add(place)
            if self._reloaded is not None:  # what it was told first may be older
                place.outbox.put(self._reloaded)
            for known in self._known.values():
                place.outbox.put(known)
        return place

    def expect(self, layout: str) -> None:
        """The server's model has this layout (``batches.layout_digest``), and so have the nodes' that stay."""
        with self._changed:
            self._layout = layout
            others = [place for place in self._places if place.layout not in (None, layout)]
            for place in others:
                place.ready = False
        for place in others:
            place.gone(OTHER_LAYOUT)

    def be_ready(self, place: Place, layout: str) -> None:
        """The node can take a model of that layout: the one that there is, and the attempt that runs."""
        with self._changed:
            place.layout, other = layout, self._layout not in (None, layout)
            place.ready = not other
            if place.ready and self._model is not None:
                state, model = self._model
                self._give(place, state, model.number, self._before)
                # While a round is committed there is its model already: the next attempt's, which is told them all.
                if self._began is not None and self._began.model == model.number:
                    place.outbox.put(self._began)
        if other:
            place.gone(OTHER_LAYOUT)

    def know(self, client_id: str) -> None:
        """Who registered that client has changed: every node is told."""
        with self._changed:
            peer, there = self._exchange.registered(client_id)
            known = t.Known(client_id, peer, there)
            if peer is None:  # who comes later knows nobody yet
                self._known.pop(client_id, None)
            else:
                self._known[client_id] = known
            for place in self._places:
                place.outbox.put(known)

    def heads(self) -> tuple[NodeHead, ...]:
        """Of the events that each node has given so far; of one that is gone, once more."""
        with self._changed:
            chains = {place.name: place.chain for place in self._places} | self._ended
            self._ended = {}
        named = ((name, *chain.now) for name, chain in chains.items())
        return tuple(NodeHead(node=name, events=count, head=head) for name, count, head in named if count)

    def over(self, place: Place) -> None:
        """Called by a place of which nothing more comes, and all is on record."""
        with self._changed:
            self._ended[place.name] = place.chain
            self._places.remove(place)

    def settled(self) -> None:
        """Called by a place that has settled, or was given what was asked for."""
        self._places.settled()

    @property
    def base_round(self) -> int | None:
        """The round of the model that updates are held against now: of an attempt that every node is told of."""
        with self._telling:  # of a model that is being copied, under the other lock, no update is to wait
            return None if self._began is None else self._began.round - 1

    @property
    def stops_at(self) -> float | None:
        """See ``Exchange``."""
        return self._exchange.stops_at

    def make_durable(self) -> None:
        """Wait until all that was said is on record, or cannot be."""
        with suppress(StoreError):  # the run ends of that
            self._recorder.flush()

    def reload(self, clients: Iterable[Member] | None) -> None:
        """Certificates are to be read again, by every node; ``clients`` are on the roster now, if there is one."""
        with self._changed:
            self._reloaded = t.Reload(None if clients is None else tuple(clients))
            self._tell(self._reloaded)

    def _tell(self, bell: t.Bell) -> None:
        for place in self._places:
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
            if self.engine is not None:
                self.engine.carry(self._number, state)
            for place in self._places:
                if place.ready:
                    self._give(place, state, self._number, before)
            return self._model[1]

    def _give(self, place: Place, state: "State", number: int, before: "State | None") -> None:
        before_it = raw_of(before) if before is not None and not place.has_model else ()
        place.has_model = True
        brought = self.engine is not None and self.engine.brings(number, place.name)
        place.outbox.put(t.Model(number, () if brought else raw_of(state), before_it))

    def announce(self, attempt: Attempt, model: CurrentModel) -> None:
        """See ``rounds.broadcast.Broadcasts``: every node is told, before anybody has a ticket."""
        with self._changed:
            assert self._model is not None
            began = t.Began(attempt.round, attempt.number, self._model[1].number, model.digest)
            self._gathering.begin()
            with self._telling:
                for place in self._places:
                    place.held.begin()
                    if place.ready:
                        place.outbox.put(began)
                self._began = began

    # --- sums --------------------------------------------------------------------------------------------------------

    def gather(self, attempt: Attempt, strategy: "Strategy") -> "State | None":
        """See ``rounds.committer.Committer``: bring the nodes' parts of an attempt that is over into ``strategy``, or
        give the new state (``ingest.gathering``)."""
        assert self._model is not None
        return self._gathering.gather(attempt, strategy, self._model[0])

    @property
    def engine(self) -> Engine | None:
        """What brings models to nodes beside their lines, and has them make the new one; there may be none."""
        return self._gathering.engine

    @engine.setter
    def engine(self, engine: Engine) -> None:
        self._gathering.engine = engine

    def keep_with(self, kept: "KeptUpdates | None", strategy: "Strategy") -> None:
        """Updates are ``kept``, or not: what was, and is lost with a node, can be added again, to this ``strategy``."""
        self._gathering.kept, self._gathering.strategy = kept, strategy

    @property
    def kept(self) -> "KeptUpdates | None":
        """Where nodes keep updates, if they do."""
        return self._gathering.kept

    def add_again(self, kept: Kept) -> bool:
        """Add an update again that was kept; False where it cannot be read any more."""
        return self._gathering.add_again(kept)

    # --- the end -----------------------------------------------------------------------------------------------------

    def close(self, grace: float, patience: float) -> None:
        """The run is over: sessions have ``grace`` seconds to say goodbye. Waits until every node has ended, and takes
        those for gone that have not within ``patience`` seconds more."""
        self._tell(t.Close(grace))
        self._places.wait_empty(grace + patience)
        for place in self._places:
            place.gone("it has not ended in time")
        self._places.wait_empty()
        self._flusher.close()
