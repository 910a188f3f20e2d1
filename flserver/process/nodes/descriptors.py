"""Descriptors that go along with a call: shared by several, copied, closed."""

import os
import threading
from collections.abc import Callable, Sequence


class Shared:
    """Descriptors that several calls send, and that nobody copies: ``end`` closes them, once all that ``take`` them
    have ``let_go`` of them, and who made this."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end, self._users = end, 1
        self._lock = threading.Lock()  # guards _users

    def take(self) -> None:
        """One more needs them."""
        with self._lock:
            self._users += 1

    def let_go(self) -> None:
        """One needs them no more."""
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self._end()


def copies(descriptors: Sequence[int]) -> list[int]:
    """As many of one's own, of the same files. Raises OSError."""
    own = list[int]()
    try:
        for descriptor in descriptors:
            own.append(os.dup(descriptor))
    except BaseException:
        close_all(own)
        raise
    return own


def close_all(descriptors: Sequence[int]) -> None:
    """Close these files here: they are gone where nobody else has them."""
    for descriptor in descriptors:
        os.close(descriptor)
