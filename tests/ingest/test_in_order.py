"""What is done in its order: on the thread that brings it, or behind what has to be waited for."""

import threading
from collections.abc import Sequence

from flserver.ingest import told as t
from flserver.ingest.batches import Item
from flserver.ingest.in_order import FEW, InOrder
from tests.patience import PATIENCE

SLOW = 7  # of that connection is waited for


def batch(*connections: int) -> list[Item]:
    return [Item(t.Accepted(number)) for number in connections]


class Doing:
    """What was done, on which thread, and what is waited for until ``room``."""

    def __init__(self) -> None:
        self.done: list[tuple[int, bool]] = []
        self.room, self.ended = threading.Event(), list[str]()
        self.here = threading.current_thread()
        self.in_order = InOrder("in-order", self._do, self._end)

    def _do(self, items: Sequence[Item], waits: bool) -> int:
        for at, item in enumerate(items):
            assert isinstance(item.said, t.Accepted)
            if item.said.connection == SLOW:
                if not waits:
                    return at
                assert self.room.wait(PATIENCE)
            self.done.append((item.said.connection, threading.current_thread() is self.here))
        return len(items)

    def _end(self, why: str) -> None:
        self.ended.append(why)

    def close(self) -> None:
        self.in_order.close("over")
        self.in_order.join()


def test_what_takes_no_waiting_is_done_by_who_brings_it() -> None:
    doing = Doing()
    doing.in_order.put(batch(1, 2))
    assert doing.done == [(1, True), (2, True)]
    doing.close()
    assert doing.ended == ["over"]


def test_what_comes_behind_something_that_is_waited_for_stays_behind_it() -> None:
    doing = Doing()
    doing.in_order.put(batch(1, SLOW, 2))
    doing.in_order.put(batch(3))
    assert doing.done == [(1, True)], "nobody waited"
    doing.room.set()
    doing.close()
    assert doing.done == [(1, True), (SLOW, False), (2, False), (3, False)]


def test_many_are_done_beside_the_next_answers() -> None:
    doing = Doing()
    doing.in_order.put(batch(*range(100, 101 + FEW)))
    doing.close()
    assert doing.done == [(number, False) for number in range(100, 101 + FEW)]


def test_nothing_is_done_after_the_end() -> None:
    doing = Doing()
    doing.close()
    doing.in_order.put(batch(1))
    assert (doing.done, doing.ended) == ([], ["over"])
