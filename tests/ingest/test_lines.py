"""A line by itself: what ends it, and what waits there to be said."""

import socket
import threading
import weakref

import pytest

from flserver.ingest import told as t
from flserver.ingest.batches import from_bytes
from flserver.ingest.lines import LineEnd
from flserver.ingest.outbox import Outbox
from flserver.rounds.seats import Registration
from tests.patience import PATIENCE, eventually
from tests.recorder import raising

MORE_THAN_A_LINE_HOLDS = 1 << 22  # bytes


class Said:
    """An end that hears nothing."""

    def __init__(self) -> None:
        self.outbox = Outbox()

    def take(self, timeout: float) -> bytes:
        return self.outbox.take(timeout)

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


def model(number: int, size: int = 8) -> t.Model:
    return t.Model(number, (memoryview(bytes([number]) * size),))


def test_a_line_of_which_nothing_is_taken_ends() -> None:
    end = Said()
    end.outbox.put(model(1, MORE_THAN_A_LINE_HOLDS))
    assert why_it_ended(end, 0.05) == "it has taken nothing of what it was told for 0.05 s"


def test_a_line_ends_where_what_is_to_be_said_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    end = Said()
    monkeypatch.setattr(end, "take", raising(ValueError("a defect")))
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


class Kept:
    """Both ends of a line: what is said on one comes out on the other, and neither keeps it."""

    def __init__(self, *said: bytes) -> None:
        self.left = [memoryview(one) for one in said]
        self.heard: list[weakref.ref[memoryview]] = []
        self.came, self.waits, self.over = threading.Event(), threading.Event(), threading.Event()

    def take(self, timeout: float) -> memoryview | bytes:
        if self.left:
            return self.left.pop(0)
        self.waits.set()
        self.over.wait(PATIENCE)
        return b""

    def give(self, batch: bytes | memoryview) -> None:
        assert isinstance(batch, memoryview)
        self.heard.append(weakref.ref(batch))
        self.came.set()


def test_a_line_keeps_nothing_of_what_was_said_while_it_waits_for_more() -> None:
    says, hears = Kept(b"a sum"), Kept()
    said = weakref.ref(says.left[0])
    lines = [
        LineEnd(sock, end, "node", ended=lambda why: None, over=end.over.is_set)  # type: ignore[arg-type]
        for sock, end in zip(socket.socketpair(), (says, hears), strict=True)
    ]
    for line in lines:
        line.start()
    try:
        assert says.waits.wait(PATIENCE)
        assert hears.came.wait(PATIENCE)
        assert said() is None
        eventually(lambda: hears.heard[0]() is None)  # its thread is on its way to what comes next
    finally:
        for end in (says, hears):
            end.over.set()
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
