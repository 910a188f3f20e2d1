"""Numbers that nobody else gives: the desk has all of them, and a node is given a block at a time."""

import threading
from collections.abc import Iterator, Mapping
from itertools import count

from flserver.ingest import questions as q
from flserver.ingest.asking import Asking

BLOCK = 1000  # numbers


class Ids:
    """The desk's: blocks from the ``first`` of each kind on. For many threads."""

    def __init__(self, first: Mapping[q.IdKind, int]) -> None:
        self._lock = threading.Lock()  # guards the next
        self._next = dict(first)

    def block(self, kind: q.IdKind) -> q.Ids:
        """The next block of that kind."""
        with self._lock:
            begin = self._next[kind]
            self._next[kind] += BLOCK
        return q.Ids(begin, BLOCK)


class Names:
    """The nodes' names: none is given twice, also by those who go on ``after`` so many. For many threads."""

    def __init__(self, after: int = 0) -> None:
        self._numbers = count(after + 1)

    def new(self) -> str:
        """The next."""
        return f"node-{next(self._numbers)}"


class NodeIds(Iterator[int]):
    """Numbers that nobody else gives: a block of them at a time, as the desk has them."""

    def __init__(self, asking: Asking, kind: q.IdKind) -> None:
        self._asking, self._kind = asking, kind
        self._lock = threading.Lock()  # guards the two below, also while more are asked for: who else needs one waits
        self._next = self._end = 0

    def __next__(self) -> int:
        with self._lock:
            if self._next == self._end:
                ids = self._asking.ask(q.MoreIds(self._kind), q.Ids)
                self._next, self._end = ids.first, ids.first + ids.count
            self._next += 1
            return self._next - 1
