"""The nodes' places at the desk: who is there, and who has which updates of an attempt that is over."""

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from flserver.ingest.patience import Patience

if TYPE_CHECKING:
    from flserver.ingest.place import Place
    from flserver.rounds.exchange import Exchange

SETTLE_SECONDS = 120.0  # that a node has at most to fold what waits there, and to give its sum, or an update, away

Parts = Mapping["Place", frozenset[int]]
"""Who has which updates of an attempt."""


class Places:
    """For many threads. ``changed`` guards it, and what else its owner says; it is notified where a place has settled,
    or ended, or something has failed at one, which ``exchange`` knows: it is raised where a node is waited for."""

    def __init__(self, exchange: "Exchange") -> None:
        self._exchange = exchange
        self.changed = threading.Condition()
        self._places: dict[str, Place] = {}

    def __iter__(self) -> "Iterator[Place]":
        with self.changed:
            return iter(list(self._places.values()))

    def add(self, place: "Place") -> None:
        """A node is there. Raises ValueError where one of its name is."""
        with self.changed:
            if place.name in self._places:
                raise ValueError(f"there is a node {place.name} already")
            self._places[place.name] = place

    def remove(self, place: "Place") -> None:
        """Nothing more comes of it, and all is on record."""
        with self.changed:
            if self.has(place):
                del self._places[place.name]
            self.changed.notify_all()

    def has(self, place: "Place") -> bool:
        """Whether it is there."""
        return self._places.get(place.name) is place

    def settled(self) -> None:
        """A place has settled, or was given what was asked for."""
        with self.changed:
            self.changed.notify_all()

    def parts(self) -> Parts:
        """Who has which updates of the attempt, once all that nodes which go had is lost, or added again."""
        with self.changed:
            while True:  # the updates first: a place loses them only when it is ending
                parts = {place: ids for place in self if (ids := place.held.ids)}
                if not any(place.ending for place in self):
                    return parts
                self.changed.wait()

    def settle(self, round: int, attempt: int, parts: Parts, *, whole: bool, made: bool = False) -> None:
        """Wait until each has folded all that counts, or is gone. One whose sum is not of what counts is. Raises
        what failed at one of them, as soon as it is known."""
        with self.changed:
            for place in parts:
                place.held.settle(round, attempt, whole=whole, made=made)
        self._wait(lambda: not any(map(self._awaited, parts)))
        for place in parts:
            if self.has(place) and (place.ending or not place.held.is_settled):
                self.end(place, place.held.fault or "it has not given its sum in time")

    def await_given(self, place: "Place", update_id: int) -> None:
        """Wait until it has given that update, or is gone. Raises as ``settle``."""
        place.held.ask(update_id)
        self._wait(lambda: place.held.has_come(update_id) or not self.has(place))
        if not place.held.has_come(update_id):
            self.end(place, "it has not given an update in time")

    def end(self, place: "Place", why: str) -> None:
        """Take a node for gone, and wait until that is on record."""
        place.gone(why)
        with self.changed:
            self.changed.wait_for(lambda: not self.has(place))

    def wait_empty(self, seconds: float | None = None) -> None:
        """Wait until none is there."""
        with self.changed:
            self.changed.wait_for(lambda: not self._places, seconds)

    def _wait(self, over: Callable[[], bool]) -> None:
        patience = Patience(SETTLE_SECONDS, lambda: self._exchange.stops_at)
        with self.changed:
            while not (self._exchange.failing or over()) and (left := patience.left):
                self.changed.wait(left)
        self._exchange.check_failure()

    def _awaited(self, place: "Place") -> bool:
        return self.has(place) and (place.ending or not place.held.has_answered)
