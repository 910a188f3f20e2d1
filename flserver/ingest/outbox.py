"""What one end of a line has to say, in order, until it is taken as a batch.

A batch costs more than what is in it: a change of threads here, and one there. So what no thread waits for waits for
companions. A question of one that does, and an answer, do not, and take along what was said before them; where the line
lets them (``speak``), whoever asks or answers says them, and no other thread is woken.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from flserver.ingest.batches import Item, Said, to_bytes
from flserver.ingest.told import Began, Give, Given, Model, Settle, Settled, Ticket

MOST_ITEMS = 1000  # in a batch: what is said behind it does not wait long
LINGER = 0.001  # seconds that waits for companions what nobody waits for
AT_ONCE = Model | Settle | Settled | Give | Given | Ticket  # a round waits for these


class Outbox:
    """For many threads that say something, and for who takes it, one at a time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards the six below
        self._items: deque[Item] = deque()
        self._hurried = self._sleeping = self._woken = self._closed = False
        # Says what there is to say on the thread that calls it, if nobody does: called without a lock.
        self.speak: Callable[[], None] | None = None

    def put(self, said: Said, number: int | None = None, *, hurried: bool | None = None) -> None:
        """Say one thing, ``hurried`` where it has a number, or as is said. What is said after the end is heard by
        nobody. A model's bytes are in the place of those of older ones that were not taken yet: who does not take what
        is said has one model here, not one a round."""
        if hurried or (hurried is None and number is not None):
            return self.put_all((Item(said, number),))
        with self._changed:
            if isinstance(said, Model) and said.blobs:
                said = self._instead_of_older(said)
            self._put((Item(said, number),), hurried=isinstance(said, AT_ONCE))

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
        """Say several things, one behind another, which are waited for."""
        with self._changed:
            speak = self.speak
            self._put(items, hurried=True, wake=speak is None)
        if speak is not None:
            speak()

    def _put(self, items: Iterable[Item], *, hurried: bool, wake: bool = True) -> None:
        if self._closed:
            return
        self._items.extend(items)
        self._hurried = self._hurried or hurried
        if wake and (hurried or self._sleeping):
            self._changed.notify()

    def wait(self, timeout: float) -> None:
        """Wait until something is to be said that waits no longer, for ``timeout`` seconds at most; or until the end,
        or ``wake``."""
        with self._changed:
            if not self._items and not self._closed and not self._woken:
                self._sleeping = True
                self._changed.wait(timeout)
                self._sleeping = False
            if self._items and not (self._hurried or self._closed or self._woken):
                self._changed.wait(LINGER)
            self._woken = False

    def wake(self) -> None:
        """Let the one who waits look."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def take(self, timeout: float) -> bytes:
        """The next batch; empty where nothing is said within ``timeout`` seconds, or ever again."""
        if timeout:
            self.wait(timeout)
        with self._changed:
            taken = [self._items.popleft() for _ in range(min(len(self._items), MOST_ITEMS))]
            self._hurried = self._hurried and bool(self._items)
        return to_bytes(taken) if taken else b""

    @property
    def hurried(self) -> bool:
        """Whether something is to be said that somebody waits for."""
        return self._hurried

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
                self._hurried = False
            self._changed.notify_all()
