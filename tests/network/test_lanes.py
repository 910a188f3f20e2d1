"""How many bodies are under way at once: who waits, for whom, and for how long."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from flserver.clock import monotonic
from flserver.errors import ConnectionLost
from flserver.models import pages
from flserver.network import lanes as module
from flserver.network.lanes import Lanes
from flserver.network.memory import FEW_BYTES, ReceiveMemory, Room
from tests.patience import PATIENCE, eventually

BODY, LARGE = 1 << 16, 1 << 22  # bytes
UNBOUNDED = 1 << 40  # bytes that an owner may have under way
FOREVER, SHORT = 3 * PATIENCE, 0.1  # seconds


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


@pytest.fixture
def forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LANE_SECONDS", FOREVER)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ReceiveMemory:
    """Room for four bodies, and two lanes."""
    monkeypatch.setattr("flserver.network.memory.processors", lambda: 1)
    return ReceiveMemory(4 * BODY, BODY, tmp_path)


def take(memory: ReceiveMemory) -> Room:
    return memory.take(BODY, "a client", UNBOUNDED)


def test_there_is_one_lane_more_than_processors(tmp_path: Path) -> None:
    there, memory = len(os.sched_getaffinity(0)), ReceiveMemory(4 * BODY, BODY, tmp_path)
    assert memory.lanes.count == there + 1
    memory.expect(FEW_BYTES + 1)
    assert memory.lanes.count == max(2, there), "memory for one more of those is much"


@pytest.mark.usefixtures("forever")
@pytest.mark.parametrize("leave", [Room.leave_lane, Room.release, lambda room: room.hold(0)])
def test_who_left_a_lane_lets_the_next_one_in(
    narrow: ReceiveMemory, pool: ThreadPoolExecutor, leave: Callable[[Room], None]
) -> None:
    rooms = [take(narrow) for _ in range(2)]
    waiting = pool.submit(take, narrow)
    assert not wait([waiting], SHORT).done, "there is memory, but no lane"
    leave(rooms[0])
    waiting.result(FOREVER / 3).release()


@pytest.mark.usefixtures("forever")
def test_a_body_that_is_worked_on_keeps_its_lane_until_its_memory_is_free(
    narrow: ReceiveMemory, pool: ThreadPoolExecutor
) -> None:
    rooms = [take(narrow) for _ in range(2)]
    rooms[0].make(BODY, 0)
    buffer = rooms[0].view.obj
    rooms[0].hold(BODY, waits=False)
    waiting = pool.submit(take, narrow)
    assert not wait([waiting], SHORT).done
    rooms[0].release()
    assert waiting.result(FOREVER / 3).view.obj is buffer, "the next one has its buffer"


@pytest.mark.usefixtures("forever")
def test_they_enter_in_the_order_of_coming(pool: ThreadPoolExecutor) -> None:
    lanes, entered, lock = Lanes(1), list[int](), threading.Lock()
    first = lanes.enter()

    def session(number: int) -> None:
        lane = lanes.enter()
        with lock:
            entered.append(number)
        lanes.leave(lane)

    for number in range(5):
        pool.submit(session, number)
        eventually(lambda count=number + 1: len(lanes._waiting) == count)  # type: ignore[misc]
    lanes.leave(first)
    eventually(lambda: entered == [0, 1, 2, 3, 4])


def test_a_slow_senders_lane_is_free_again_in_time(narrow: ReceiveMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LANE_SECONDS", SHORT)
    started = monotonic()
    rooms = [take(narrow) for _ in range(4)]
    assert SHORT <= monotonic() - started < FOREVER / 2
    assert len(rooms) == 4


def test_a_fast_senders_lane_is_taken_for_as_long_as_its_bytes_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LANE_SECONDS", SHORT)
    lanes = Lanes(1)
    lane = lanes.enter()
    assert lane.expires == pytest.approx(lane.entered + SHORT)
    lane.arrived = 3 * module.LANE_RATE
    assert lane.expires == pytest.approx(lane.entered + SHORT + 3)


def test_nobody_waits_behind_lanes_that_bring_little(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long these are taken for: all who wait go in."""
    monkeypatch.setattr(module, "LANE_SECONDS", SHORT)
    lanes = Lanes(1)
    lane = lanes.enter()
    lane.arrived = 1000 * module.LANE_RATE  # seconds ago, and nothing since
    done, pending = wait([pool.submit(lanes.enter) for _ in range(6)], FOREVER / 3)
    assert (len(done), pending) == (6, set())
    assert lane.expires > monotonic() + 100


def test_a_body_that_is_worked_on_is_waited_for_although_nothing_comes(
    narrow: ReceiveMemory, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large one is worked on for longer than ``LANE_SECONDS``: all who wait would go in, with a body each."""
    monkeypatch.setattr(module, "LANE_SECONDS", SHORT)
    rooms = [take(narrow) for _ in range(2)]
    for room in rooms:
        room.hold(int(FOREVER) * module.LANE_RATE, waits=False)
    waiting = [pool.submit(take, narrow) for _ in range(3)]
    assert not wait(waiting, 5 * SHORT).done
    for room in rooms:
        room.release()
    for one in waiting:
        one.result(FOREVER / 3).release()


def test_a_body_counts_as_worked_on_for_as_long_as_its_bytes_take() -> None:
    lane = Lanes(1).enter()
    lane.arrived = 3 * module.LANE_RATE
    assert lane.done(lane.entered + 100) == lane.arrived, "it is not complete: its sender is waited for"
    lane.complete = lane.entered
    assert lane.done(lane.entered + 1) == pytest.approx(4 * module.LANE_RATE)
    assert lane.done(lane.entered + 100) == 2 * lane.arrived


@pytest.mark.usefixtures("forever")
def test_who_waits_stops_waiting_when_the_server_stops(narrow: ReceiveMemory, pool: ThreadPoolExecutor) -> None:
    rooms = [take(narrow) for _ in range(2)]
    waiting = [pool.submit(take, narrow) for _ in range(3)]
    assert not wait(waiting, SHORT).done
    narrow.close()
    for one in waiting:
        with pytest.raises(ConnectionLost, match="stopping") as caught:
            one.result(FOREVER / 3)
        assert caught.value.cause == "other"
    rooms[0].release()
    with pytest.raises(ConnectionLost, match="stopping"):
        take(narrow)


def test_a_server_that_stops_keeps_no_memory_for_updates(tmp_path: Path) -> None:
    memory = ReceiveMemory(8 * LARGE, LARGE + 2**20, tmp_path)
    rooms = [memory.take(LARGE, "a client", UNBOUNDED) for _ in range(memory.lanes.count)]
    buffers = [room.view.obj for room in rooms]
    for room in rooms:
        room.release()
    assert memory._spare == buffers[:-1], "one is the next model's"
    kept = pages.used_again(LARGE)
    assert kept is not None
    assert kept is buffers[-1]
    pages.let_go(kept)
    memory.close()
    assert (memory._spare, pages.used_again(LARGE)) == ([], None)


def test_processors_are_those_that_the_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    assert module.processors() == len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert module.processors() == 1
    finally:
        os.sched_setaffinity(0, allowed)
