"""What one end of a line has to say, in order, until it is taken as a batch."""

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from flserver.ingest.batches import Item, Said, to_bytes
from flserver.ingest.told import Began, Model

MOST_ITEMS = 1000  # in a batch: what is said behind it does not wait long


class Outbox:
    """For many threads that say something, and one that takes it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards the two below
        self._items: deque[Item] = deque()
        self._closed = False

    def put(self, said: Said, number: int | None = None) -> None:
        """Say one thing. What is said after the end is heard by nobody. A model's bytes are in the place of those of
        older ones that were not taken yet: who does not take what is said has one model here, not one a round."""
        with self._changed:
            if isinstance(said, Model) and said.blobs:
                said = self._instead_of_older(said)
            self.put_all((Item(said, number),))

    def _instead_of_older(self, newest: Model) -> Model:
        """The newest model, with the one of the round before, whose attempts are over and are not said any more."""
        older = {item.said.number: item.said for item in self._items if isinstance(item.said, Model)}
        before, kept = next((model.before for model in older.values()), ()), deque[Item]()
        for item in self._items:
            if isinstance(item.said, Began) and item.said.model in older:
                before = older[item.said.model].blobs
            elif not isinstance(item.said, Model):
                kept.append(item)
        self._items = kept
        return replace(newest, before=newest.before or before)

    def put_all(self, items: Iterable[Item]) -> None:
        """Say several things, one behind another."""
        with self._changed:
            if not self._closed:
                self._items.extend(items)
                self._changed.notify()

    def take(self, timeout: float) -> bytes:
        """The next batch; empty where nothing is said within ``timeout`` seconds, or ever again."""
        with self._changed:
            if not self._items and not self._closed:
                self._changed.wait(timeout)
            taken = [self._items.popleft() for _ in range(min(len(self._items), MOST_ITEMS))]
        return to_bytes(taken) if taken else b""

    @property
    def over(self) -> bool:
        """Whether it is closed, and all of it taken."""
        with self._changed:
            return self._closed and not self._items

    def close(self, *, keep: bool = True) -> None:
        """Nothing more is said; what was said can still be taken where it is to be kept."""
        with self._changed:
            self._closed = True
            if not keep:
                self._items.clear()
            self._changed.notify_all()
