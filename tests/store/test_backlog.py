"""What waits for its transaction is bounded: who brings more waits, who goes first last of all, and nobody for ever."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flserver import events as e
from flserver.errors import StoreError
from flserver.store import backlog
from flserver.store.backlog import Backlog
from tests.patience import PATIENCE, eventually
from tests.store.recording import Recording, states


@pytest.fixture
def held(database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recording]:
    """A writer with room for 8 events, 2 of them for everybody, that holds its first transaction at its gate."""
    monkeypatch.setattr(backlog, "MOST_EVENTS", 8)
    monkeypatch.setattr(backlog, "OTHERS_PART", 4)
    recording = Recording(database)
    recording.start()
    recording.gate.clear()
    yield recording
    recording.gate.set()
    recording.writer.close()


class Emitting(threading.Thread):
    """Emits events on a thread of its own, and says what became of that."""

    def __init__(self, recording: Recording, count: int, *, first: bool) -> None:
        super().__init__()
        self._emit, self._count, self._first = recording.writer.emit, count, first
        self.done = 0
        self.error: StoreError | None = None
        self.start()

    def run(self) -> None:
        try:
            for event in states(self._count):
                self._emit(event, first=self._first)
                self.done += 1
        except StoreError as error:
            self.error = error

    def over(self) -> "Emitting":
        self.join(PATIENCE)
        assert not self.is_alive()
        return self


def waits(recording: Recording, *, first: bool, count: int = 1) -> Callable[[], bool]:
    room = recording.writer._room[first]
    return lambda: len(room._waiters) >= count  # type: ignore[attr-defined]


def test_there_is_an_eighth_for_all_and_the_rest_for_those_who_go_first() -> None:
    waiting = Backlog()
    assert (waiting.room(first=True), waiting.room(first=False)) == (8192, 1024)
    for _ in range(1024):
        waiting.add(100)
    assert (waiting.room(first=True), waiting.room(first=False)) == (7168, 0)
    waiting.take_off(1, 100)
    assert waiting.room(first=False) == 1
    for _ in range(8000):
        waiting.add(100)
    assert (waiting.room(first=True), waiting.room(first=False)) == (0, 0)


def test_bytes_are_bounded_too_and_the_event_that_reaches_the_bound_is_let_in() -> None:
    waiting = Backlog()
    waiting.add((2 << 20) - 1)
    assert waiting.room(first=False)
    waiting.add(100 << 20)
    assert (waiting.room(first=True), waiting.room(first=False)) == (0, 0)
    waiting.take_off(1, 100 << 20)
    assert waiting.room(first=False)


def test_who_finds_no_room_waits_and_others_wait_before_who_goes_first(held: Recording) -> None:
    others = Emitting(held, 5, first=False)
    eventually(waits(held, first=False))
    assert (others.done, held.writer.crowded) == (2, True)
    rounds = Emitting(held, 8, first=True)
    eventually(waits(held, first=True))
    assert (rounds.done, held.writer.queue_length) == (6, 8), "what rounds rest on has the rest of the room"
    held.gate.set()
    assert (others.over().done, rounds.over().done) == (5, 8)
    held.writer.flush()
    assert (held.writer.crowded, held.writer.queue_length) == (False, 0)
    assert len([event for batch in held.batches for event in batch]) == 13


def test_many_who_wait_are_all_let_in(held: Recording) -> None:
    crowd = [Emitting(held, 3, first=False) for _ in range(20)]
    eventually(waits(held, first=False, count=18))
    held.gate.set()
    assert [one.over().done for one in crowd] == [3] * 20
    held.writer.flush()
    assert held.writer.sequence == 60


@pytest.mark.parametrize("first", [True, False])
def test_nobody_waits_for_a_record_that_has_failed(held: Recording, first: bool) -> None:
    held.writer.emit(e.ClientLeft(client_id="9", registration=1, connection_id=9, reason="closed"))  # it has no row
    one = Emitting(held, 20, first=first)
    held.gate.set()
    assert "no open row" in str(one.over().error)


@pytest.mark.parametrize("first", [True, False])
def test_nobody_waits_for_a_record_that_is_closed(held: Recording, first: bool) -> None:
    one = Emitting(held, 20, first=first)
    eventually(waits(held, first=first))
    closing = threading.Thread(target=held.writer.close)
    closing.start()
    assert str(one.over().error) == "the record is closed"
    held.gate.set()
    closing.join(PATIENCE)
    assert held.writer.queue_length == 0


def test_what_keeps_others_out_does_not_linger(held: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flserver.store.writer.LINGER", PATIENCE)
    held.gate.set()
    assert Emitting(held, 20, first=False).over().done == 20
