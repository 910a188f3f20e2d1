"""What is done in the order in which it was said, and may have to wait for room in the record."""

import queue
import threading
from collections.abc import Callable, Sequence

from flserver.ingest.batches import Item

FEW = 100  # things said that are done by who has the next answers to give


class InOrder:
    """Does what ``put`` brings on that thread, where nothing is before it and nothing has to be waited for, else on one
    of its own; and there at last ``end``, with why nothing more comes.

    ``do`` is called by one thread at a time, with what was said and whether it may wait, and says how many it did.
    """

    def __init__(self, name: str, do: Callable[[Sequence[Item], bool], int], end: Callable[[str], None]) -> None:
        self._do, self._end = do, end
        self._turn = threading.Lock()  # of who does something; guards the next
        self._over = False
        self._lock = threading.Lock()  # guards the next
        self._queued = 0  # batches that are not done yet, and the end
        self._queue: queue.SimpleQueue[Sequence[Item] | str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    def put(self, items: Sequence[Item]) -> None:
        """Do these, behind all that came before; by one thread at a time. Never waits for the record."""
        done = 0
        if len(items) <= FEW and not self._queued and self._turn.acquire(blocking=False):
            try:
                done = len(items) if self._over else self._do(items, False)
            finally:
                self._turn.release()
        if done < len(items):
            with self._lock:
                self._queued += 1
            self._queue.put(items[done:])

    def close(self, why: str) -> None:
        """Nothing more comes, and that is why; what does is not done."""
        with self._lock:
            self._queued += 1
        self._queue.put(why)

    def join(self) -> None:
        """Wait for the end, after ``close``."""
        self._thread.join()

    def _run(self) -> None:
        while not isinstance(given := self._queue.get(), str):
            with self._turn:
                self._do(given, True)
            with self._lock:
                self._queued -= 1
        with self._turn:
            self._over = True
        self._end(given)
