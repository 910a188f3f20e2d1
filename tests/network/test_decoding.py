"""Whose turn it is to take a message apart: one at a time, owners in turn, large ones last, within the budget."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flserver.errors import ConnectionLost
from flserver.network import decoding as module
from flserver.network.decoding import MORE, PLACES, Decoding, Line, Turn
from flserver.network.memory import ReceiveMemory
from flserver.wire.pickles import Tick
from tests.patience import PATIENCE, eventually

ORDINARY = 1000  # bytes
BUDGET = 40_000


@pytest.fixture
def memory(tmp_path: Path) -> ReceiveMemory:
    return ReceiveMemory(BUDGET, BUDGET // 4, tmp_path)


@pytest.fixture
def decoding(memory: ReceiveMemory, monkeypatch: pytest.MonkeyPatch) -> Decoding:
    """Every tick makes way, as if its slice was over."""
    monkeypatch.setattr(module, "SLICE", 0.0)
    return Decoding(memory, ORDINARY)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def ticks(count: int, size: int = 1) -> Callable[[Tick], str]:
    def read(tick: Tick) -> str:
        for _ in range(count):
            tick(size)
        return "read"

    return read


def test_owners_come_one_after_another_and_each_ones_messages_as_they_came() -> None:
    line = Line()
    turns = [Turn(owner, None) for owner in ("many", "many", "many", "one", "many", "two", "one")]
    for turn in turns:
        line.put(turn)
    line.remove(turns[1])
    order = []
    while line:
        order.append(turns.index(line.take()))
    assert order == [0, 3, 5, 2, 6, 4]


def test_of_one_owner_its_clients_come_one_after_another_and_who_names_none_has_one_turn_with_the_like() -> None:
    line = Line()
    said = [("a", None), ("a", None), ("b", None), ("a", "1"), ("a", "2"), ("a", "1"), ("b", "3"), ("a", None)]
    turns = [Turn(owner, None, client) for owner, client in said]
    for turn in turns:
        line.put(turn)
    assert list(line) == [turns[n] for n in (0, 1, 7, 3, 5, 4, 2, 6)]
    line.remove(turns[4])
    line.remove(turns[4])
    order = []
    while line:
        order.append(turns.index(line.take()))
    assert order == [0, 2, 3, 6, 1, 5, 7]


def test_a_client_does_not_wait_for_those_of_its_owner_that_name_nobody(
    decoding: Decoding, threads: ThreadPoolExecutor
) -> None:
    """Nor is it asked for its name where nobody waits."""
    go_on, order = threading.Event(), []

    def reading(name: str) -> Callable[[Tick], None]:
        def read(tick: Tick) -> None:
            if name == "first":
                assert go_on.wait(PATIENCE)
            order.append(name)

        return read

    first = threads.submit(decoding.run, "a", reading("first"), lambda: pytest.fail("nobody waits"))
    eventually(lambda: decoding._running)
    crowd = []
    for number in range(9):
        crowd.append(threads.submit(decoding.run, "a", reading("crowd")))
        eventually(lambda number=number: len(list(decoding._newcomers)) == number + 1)
    named = threads.submit(decoding.run, "a", reading("named"), lambda: "1")
    eventually(lambda: len(list(decoding._newcomers)) == 10)
    go_on.set()
    for done in [first, *crowd, named]:
        done.result(PATIENCE)
    assert order.index("named") == 2


def test_what_was_read_is_returned_what_it_raises_is_raised_and_nothing_stays_charged(
    decoding: Decoding, memory: ReceiveMemory
) -> None:
    assert decoding.run("a", ticks(5, 100)) == "read"

    def fails(tick: Tick) -> None:
        tick(100)
        assert memory.in_use == 100
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        decoding.run("a", fails)
    assert memory.in_use == 0
    assert decoding.run("a", ticks(5, 100)) == "read"


def test_what_is_done_of_it_then_may_take_several_times_as_much_and_is_ended_where_it_takes_more(
    decoding: Decoding, memory: ReceiveMemory
) -> None:
    done, in_use = list[str](), list[int]()

    def then(most: int) -> Callable[[str, Tick], None]:
        def do(found: str, tick: Tick) -> None:
            in_use.append(memory.in_use)
            ticks(most // 100, 100)(tick)
            done.append(found)

        return do

    for most in (MORE * ORDINARY, MORE * ORDINARY + 100):
        assert decoding.run("a", ticks(9, 100), lambda: None, then(most)) == "read"
    assert done == ["read"]
    assert in_use == [0, 0]  # what reading took is counted no more
    assert memory.in_use == 0
    assert decoding.run("a", ticks(11, 100), lambda: None, then(0)) == "read"  # it is no ordinary one
    assert done == ["read"]


def test_one_at_a_time_has_the_processor_and_no_more_are_begun_than_there_are_places(
    decoding: Decoding, threads: ThreadPoolExecutor
) -> None:
    lock, running, begun, most = threading.Lock(), 0, 0, 0

    def read(tick: Tick) -> None:
        nonlocal running, begun, most
        with lock:
            begun += 1
            most = max(most, begun)
        for _ in range(20):
            with lock:
                running += 1
                assert running == 1
            with lock:
                running -= 1
            tick(1)
        with lock:
            begun -= 1

    for done in [threads.submit(decoding.run, owner, read) for owner in "abcdabcdaaaaaaaa"]:
        done.result(PATIENCE)
    assert 1 < most <= PLACES


@pytest.mark.parametrize("owner", ["a flood", "another"])
def test_ordinary_messages_do_not_wait_for_the_end_of_large_ones(
    decoding: Decoding, threads: ThreadPoolExecutor, owner: str
) -> None:
    enough = threading.Event()

    def large(tick: Tick) -> str:
        tick(ORDINARY + 1)
        while not enough.is_set():
            tick(0)
        return "large"

    flood = [threads.submit(decoding.run, "a flood", large) for _ in range(8)]
    for _ in range(20):
        assert threads.submit(decoding.run, owner, ticks(9, 100)).result(PATIENCE) == "read"
    assert not any(done.done() for done in flood)
    enough.set()
    assert [done.result(PATIENCE) for done in flood] == ["large"] * 8


def test_a_large_one_is_begun_anew_and_goes_on_beside_a_stream_of_ordinary_ones(
    decoding: Decoding, threads: ThreadPoolExecutor
) -> None:
    stop, tries = threading.Event(), []

    def stream() -> None:
        while not stop.is_set():
            decoding.run("others", ticks(3))

    def large(tick: Tick) -> str:
        tries.append(len(tries))
        return ticks(40, 100)(tick)

    streams = [threads.submit(stream) for _ in range(6)]
    assert threads.submit(decoding.run, "a", large).result(PATIENCE) == "read"
    assert len(tries) == 2
    stop.set()
    for done in streams:
        done.result(PATIENCE)


def test_after_a_slice_nobody_reads_while_other_threads_work_but_no_longer_than_it_took(
    decoding: Decoding, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[Turn | None] = []
    busy = [True, True, False]

    def others_work(seconds: float) -> bool:
        pauses.append(decoding._running)
        return busy[(len(pauses) - 1) % 3]

    monkeypatch.setattr(decoding, "_others_work", others_work)
    for rest, each in ((1e9, 3), (0.0, 1)):  # times a slice
        monkeypatch.setattr(module, "REST", rest)
        pauses.clear()
        for done in [threads.submit(decoding.run, owner, ticks(4)) for owner in "aabb"]:
            done.result(PATIENCE)
        assert len(pauses) == 4 * 4 * each
        assert None not in pauses, "nobody else is given the processor meanwhile"


def test_others_work_where_they_have_a_processor_for_half_of_a_pause(
    decoding: Decoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    for share, work in ((0.4, False), (0.6, True)):
        clocks = iter([0.0, 1.0])
        used = iter([5.0, 5.0 + share])
        monkeypatch.setattr(module, "monotonic", lambda clocks=clocks: next(clocks))
        monkeypatch.setattr(module, "all_processor_seconds", lambda used=used: next(used))
        assert decoding._others_work(0.0) is work


def test_short_messages_share_a_slice(memory: ReceiveMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, the others have their moments between them."""
    decoding, now, pauses = Decoding(memory, ORDINARY), 0.0, 0

    def others_work(seconds: float) -> bool:
        nonlocal pauses
        pauses += 1
        return False

    def short(tick: Tick) -> None:
        nonlocal now
        tick(1)
        now += 0.4 * module.SLICE

    monkeypatch.setattr(module, "processor_seconds", lambda: now)
    monkeypatch.setattr(decoding, "_others_work", others_work)
    for number in range(12):
        decoding.run("a", short)
        assert pauses == number // 3


def test_without_room_the_oldest_goes_on_and_the_others_wait_for_it(
    decoding: Decoding, memory: ReceiveMemory, threads: ThreadPoolExecutor
) -> None:
    """Bodies have all of the budget: reading goes on one message at a time, and ends."""
    assert memory.charge(memory.budget)
    most, order, first_is_in = 0, [], threading.Event()

    def read(number: int) -> Callable[[Tick], None]:
        def reading(tick: Tick) -> None:
            nonlocal most
            for _ in range(9):
                tick(100)
                most = max(most, memory.in_use - memory.budget)
                if number == 0:
                    first_is_in.set()
                    eventually(lambda: len(decoding._begun) > 1 or decoding._newcomers)
            order.append(number)

        return reading

    first = threads.submit(decoding.run, "a", read(0))
    assert first_is_in.wait(PATIENCE)
    others = [threads.submit(decoding.run, owner, read(number)) for number, owner in enumerate("bcd", 1)]
    for done in [first, *others]:
        done.result(PATIENCE)
    assert order[0] == 0
    assert most <= 900, "one message's"
    assert memory.in_use == memory.budget


def test_who_waits_for_a_turn_when_the_server_stops_waits_no_longer(
    decoding: Decoding, threads: ThreadPoolExecutor
) -> None:
    has_it, go_on = threading.Event(), threading.Event()

    def holds(tick: Tick) -> None:
        has_it.set()
        assert go_on.wait(PATIENCE)
        tick(1)

    one = threads.submit(decoding.run, "a", holds)
    assert has_it.wait(PATIENCE)
    other = threads.submit(decoding.run, "a", ticks(1))
    eventually(lambda: decoding._newcomers)
    decoding.close()
    with pytest.raises(ConnectionLost, match="stopping"):
        other.result(PATIENCE)
    go_on.set()
    with pytest.raises(ConnectionLost, match="stopping"):
        one.result(PATIENCE)
