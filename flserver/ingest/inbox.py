"""What one end of a line was told, in order, until it is done: where telling is a call that is to be answered soon."""

import threading
from collections import deque

from flserver.errors import StoreError

MOST_BATCHES = 64  # that wait to be done; who tells more waits too, as for a socket that takes nothing


class Inbox:
    """For whoever tells, one batch at a time, and one thread that does it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards the two below
        self._batches: deque[bytes] = deque()
        self._closed = False

    def put(self, batch: bytes) -> None:
        """Tell it, once there is room. Raises StoreError where nobody does it any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._batches) < MOST_BATCHES)
            if self._closed:
                raise StoreError("what it is told is done by nobody any more")
            self._batches.append(batch)
            self._changed.notify_all()

    def take(self) -> bytes | None:
        """The next batch; None after the end, whatever was not taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._batches)
            if self._closed:
                return None
            self._changed.notify_all()
            return self._batches.popleft()

    def close(self) -> None:
        """Nothing more is done."""
        with self._changed:
            self._closed = True
            self._batches.clear()
            self._changed.notify_all()
