"""A line by itself: what ends it, what waits there to be said, and who says it."""

import random
import socket
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from flserver.ingest import outbox as outboxes
from flserver.ingest import questions as q
from flserver.ingest import told as t
from flserver.ingest.batches import Item, from_bytes
from flserver.ingest.lines import BUFFER, LENGTH, Incoming, LineEnd
from flserver.ingest.outbox import Outbox
from flserver.rounds.seats import Registration
from tests.patience import PATIENCE, eventually
from tests.recorder import raising

MORE_THAN_A_LINE_HOLDS = 1 << 22  # bytes


class Said:
    """An end that hears nothing."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.said_by: list[str] = []

    def take(self, timeout: float) -> bytes:
        if batch := self.outbox.take(timeout):
            self.said_by.append(threading.current_thread().name)
        return batch

    def give(self, batch: bytes | memoryview) -> None:
        raise AssertionError("nobody says anything")


def why_it_ended(end: Said, patience: float | None) -> str:
    """What is known of why a line ended whose other end does nothing."""
    ours, its = socket.socketpair()
    why, ended = list[str](), threading.Event()

    def over(reason: str) -> None:
        why.append(reason)
        ended.set()

    with its:
        line = LineEnd(ours, end, "node", ended=over, over=lambda: end.outbox.over, patience=patience)
        line.start()
        assert ended.wait(PATIENCE)
        end.outbox.close()
        line.close()
    return why[0]


@contextmanager
def carried(end: Said) -> Iterator[Incoming]:
    """The other end of a line."""
    ours, its = socket.socketpair()
    with its:
        line = LineEnd(ours, end, "node", ended=lambda why: None, over=lambda: end.outbox.over)
        line.start()
        yield Incoming(its)
        end.outbox.close()
        its.close()
        line.close()


def said(incoming: Incoming) -> list[Item]:
    batch = incoming.next()
    assert batch is not None
    return from_bytes(batch)


def model(number: int, size: int = 8) -> t.Model:
    return t.Model(number, (memoryview(bytes([number]) * size),))


def test_a_line_of_which_nothing_is_taken_ends() -> None:
    end = Said()
    end.outbox.put(model(1, MORE_THAN_A_LINE_HOLDS))
    assert why_it_ended(end, 0.05) == "it has taken nothing of what it was told for 0.05 s"


def test_a_line_ends_where_what_is_to_be_said_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    end = Said()
    monkeypatch.setattr(end, "take", raising(ValueError("a defect")))
    end.outbox.put(t.Reload(None))
    assert why_it_ended(end, None) == "what it was to be told could not be said: ValueError('a defect')"


def test_a_model_is_in_the_place_of_older_ones_that_nobody_has_taken() -> None:
    outbox, ticket = Outbox(), t.Ticket(Registration("a", 1, False), 1, 1, 1, False)
    outbox.put(t.Model(1, model(1).blobs, model(0).blobs))
    for said in (t.Began(1, 1, 1, None), ticket, model(2), t.Began(2, 1, 2, "a"), t.Began(2, 2, 2, "a"), model(3)):
        outbox.put(said)
    newest = t.Model(3, model(3).blobs, model(2).blobs)
    outbox.put(t.Began(3, 1, 3, "b"))
    assert [item.said for item in from_bytes(outbox.take(0.0))] == [ticket, newest, t.Began(3, 1, 3, "b")]


def test_a_model_that_began_nothing_is_not_that_of_the_round_before() -> None:
    outbox = Outbox()
    outbox.put(t.Began(1, 1, 1, None))  # of a model that was taken
    outbox.put(model(2))  # its commit failed
    outbox.put(model(3))
    assert [item.said for item in from_bytes(outbox.take(0.0))] == [t.Began(1, 1, 1, None), model(3)]
    outbox.put(t.Model(1, model(1).blobs, model(0).blobs))
    outbox.put(model(2))
    (item,) = from_bytes(outbox.take(0.0))
    assert item.said == t.Model(2, model(2).blobs, model(0).blobs)


def test_models_that_come_another_way_are_all_said() -> None:
    outbox = Outbox()
    for number in (1, 2):
        outbox.put(t.Model(number, ()))
    assert [item.said for item in from_bytes(outbox.take(0.0))] == [t.Model(1, ()), t.Model(2, ())]


class Waits(Outbox):
    """Says when it is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Event()

    def wait(self, timeout: float) -> None:
        self.waits.set()
        super().wait(timeout)


class Kept:
    """Both ends of a line: what is said on one comes out on the other, and neither keeps it."""

    def __init__(self, *said: bytes) -> None:
        self.left = [memoryview(one) for one in said]
        self.heard: list[weakref.ref[memoryview]] = []
        self.came, self.outbox = threading.Event(), Waits()

    def take(self, timeout: float) -> memoryview | bytes:
        return self.left.pop(0) if self.left else b""

    def give(self, batch: bytes | memoryview) -> None:
        assert isinstance(batch, memoryview)
        self.heard.append(weakref.ref(batch))
        self.came.set()


def test_a_line_keeps_nothing_of_what_was_said_while_it_waits_for_more() -> None:
    says, hears = Kept(b"a sum"), Kept()
    said = weakref.ref(says.left[0])
    lines = [
        LineEnd(sock, end, "node", ended=lambda why: None, over=lambda end=end: end.outbox.over)  # type: ignore
        for sock, end in zip(socket.socketpair(), (says, hears), strict=True)
    ]
    for line in lines:
        line.start()
    try:
        assert says.outbox.waits.wait(PATIENCE)
        assert hears.came.wait(PATIENCE)
        assert said() is None
        eventually(lambda: hears.heard[0]() is None)  # its thread is on its way to what comes next
    finally:
        for end in (says, hears):
            end.outbox.close()
        for line in lines:
            line.close()


def test_what_is_not_kept_of_an_outbox_is_given_back_at_once() -> None:
    outbox, blob = Outbox(), memoryview(b"a model")
    there = weakref.ref(blob)
    outbox.put(t.Model(1, (blob,)))
    del blob
    outbox.close()
    assert (there() is None, outbox.over) == (False, False)
    outbox.close(keep=False)
    assert (there(), outbox.over, outbox.take(0.0)) == (None, True, b"")


def test_what_nobody_waits_for_waits_for_a_question_and_goes_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "LINGER", PATIENCE)
    outbox, taken = Outbox(), list[bytes]()
    taking = threading.Thread(target=lambda: taken.append(outbox.take(PATIENCE)))
    taking.start()
    for number in (1, 2):
        outbox.put(t.Accepted(number))
    outbox.put(q.Flush(), 1)
    taking.join(PATIENCE / 2)
    assert [item.said for item in from_bytes(taken[0])] == [t.Accepted(1), t.Accepted(2), q.Flush()]


def test_what_nobody_waits_for_goes_by_itself_too() -> None:
    outbox = Outbox()
    outbox.put(t.Accepted(1))
    assert [item.said for item in from_bytes(outbox.take(PATIENCE))] == [t.Accepted(1)]


def test_who_asks_or_answers_says_so_and_all_that_was_said_before() -> None:
    end = Said()
    with carried(end) as incoming:
        end.outbox.put(q.Flush(), 1)
        assert said(incoming) == [Item(q.Flush(), 1)]
        assert end.said_by == [threading.current_thread().name]


def test_what_a_line_does_not_take_at_once_is_not_waited_for_and_comes_in_its_order() -> None:
    end, long = Said(), "a" * MORE_THAN_A_LINE_HOLDS
    with carried(end) as incoming:
        for number in (1, 2, 3):
            end.outbox.put(q.SentBy(long if number == 1 else None), number)
        found = list[Item]()
        while len(found) < 3:
            found += said(incoming)
        assert [item.number for item in found] == [1, 2, 3]
        assert found[0].said == q.SentBy(long)
        assert end.said_by[0] == threading.current_thread().name
        assert "line-out-node" in end.said_by[1:], "nobody else is made to wait for the other end"


def test_batches_arrive_as_they_were_however_they_are_cut() -> None:
    chance = random.Random(1)
    sizes = [0, 1, BUFFER - LENGTH, BUFFER - LENGTH + 1, BUFFER, 3 * BUFFER, *chance.sample(range(3000), 60)]
    batches = [chance.randbytes(size) for size in sizes]
    stream = b"".join(len(batch).to_bytes(LENGTH, "big") + batch for batch in batches)
    ours, its = socket.socketpair()

    def send() -> None:
        at = 0
        while at < len(stream):
            size = chance.choice((1, 7, 500, BUFFER, 2 * BUFFER))
            its.sendall(stream[at : at + size])
            at += size
        its.close()

    with ours:
        sending = threading.Thread(target=send)
        sending.start()
        incoming, found = Incoming(ours), list[bytes]()
        while (batch := incoming.next()) is not None:
            found.append(bytes(batch))
        sending.join()
    assert found == batches
