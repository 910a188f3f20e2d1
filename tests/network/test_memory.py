"""The memory for updates: a budget that is kept, room that comes back, and files where it is tight."""

import mmap
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from flserver.clock import Deadline, monotonic
from flserver.errors import ConnectionLost
from flserver.network.memory import ReceiveMemory, Room

BODY = 1 << 16  # bytes
FOREVER, SHORT = 30.0, 0.1  # seconds


@pytest.fixture
def memory(tmp_path: Path) -> ReceiveMemory:
    """Room for four bodies."""
    return ReceiveMemory(budget=4 * BODY, largest=BODY, directory=tmp_path / "checkpoints")


def take(memory: ReceiveMemory, size: int = BODY, seconds: float = FOREVER) -> Room:
    """Room of a sender whose body is there at once: its lane is free again."""
    room = memory.take(size, Deadline.after(seconds))
    room.leave_lane()
    return room


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_the_budget_is_never_too_small_for_four_bodies(tmp_path: Path) -> None:
    assert ReceiveMemory(1, BODY, tmp_path).budget == 4 * BODY
    assert ReceiveMemory(100 * BODY, BODY, tmp_path).budget == 100 * BODY


def test_room_is_as_large_as_asked_for_and_writable(memory: ReceiveMemory) -> None:
    room = take(memory, 12_345)
    assert (len(room.view), room.view.readonly, memory.in_use) == (12_345, False, 12_345)
    room.view[:] = b"x" * 12_345
    room.release()
    assert memory.in_use == 0


def test_releasing_twice_gives_back_once(memory: ReceiveMemory) -> None:
    first, second = take(memory), take(memory)
    first.release()
    first.release()
    assert memory.in_use == BODY
    second.release()


def test_over_the_budget_it_waits_until_there_is_room(memory: ReceiveMemory) -> None:
    rooms = [take(memory) for _ in range(4)]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(take, memory, 2 * BODY)
        for room in rooms[:2]:
            assert not waiting.done()
            room.release()
        assert len(waiting.result(FOREVER).view) == 2 * BODY
    assert memory.in_use == 4 * BODY


def test_without_room_by_the_deadline_the_connection_is_lost(memory: ReceiveMemory) -> None:
    rooms = [take(memory) for _ in range(4)]
    started = monotonic()
    with pytest.raises(ConnectionLost, match="no memory became free") as caught:
        take(memory, 1, seconds=0.05)
    assert caught.value.cause == "timeout"
    assert 0.05 <= monotonic() - started < FOREVER / 2
    rooms[0].release()
    assert memory.in_use == 3 * BODY, "what was not given is not counted"


def test_room_that_the_system_refuses_is_not_counted(memory: ReceiveMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **more: object) -> mmap.mmap:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(ConnectionLost, match="Cannot allocate memory"):
        take(memory)
    assert memory.in_use == 0


def test_buffers_are_used_again_and_the_smallest_that_fits_first(memory: ReceiveMemory) -> None:
    large, small = take(memory, BODY), take(memory, BODY // 2)
    large.release()
    small.release()
    again = [take(memory, 100), take(memory, 100)]
    assert again[0].view.obj is small.view.obj
    assert again[1].view.obj is large.view.obj
    assert [len(room.view) for room in again] == [100, 100]


def test_what_is_kept_for_the_next_update_is_no_more_than_half_of_the_budget(memory: ReceiveMemory) -> None:
    rooms = [take(memory) for _ in range(4)]
    for room in rooms:
        room.release()
    again = [take(memory) for _ in range(4)]
    kept = [new for new in again if any(new.view.obj is old.view.obj for old in rooms)]
    assert 1 <= len(kept) <= 2


def test_where_memory_is_not_tight_a_held_body_stays_where_it_is(memory: ReceiveMemory) -> None:
    room = take(memory)
    view = room.view
    room.hold()
    assert room.view is view
    assert memory.in_use == BODY


def test_where_it_is_tight_a_held_body_moves_to_a_file_and_its_memory_comes_back(
    memory: ReceiveMemory, tmp_path: Path
) -> None:
    body = random.Random(1).randbytes(BODY)
    others = [take(memory), take(memory)]
    room = take(memory)
    room.view[:] = body
    room.hold()
    assert memory.in_use == 2 * BODY
    assert (bytes(room.view), room.view.readonly) == (body, True)
    assert any(f"{tmp_path}/checkpoints/" in line and "(deleted)" in line for line in maps()), "in an unlinked file"
    assert list((tmp_path / "checkpoints").iterdir()) == []
    take(memory).view[:] = bytes(BODY)  # what uses the memory next does not show in the file
    assert bytes(room.view) == body
    room.hold()
    room.release()
    assert memory.in_use == 3 * BODY, "given back once"
    del others


def maps() -> list[str]:
    return Path("/proc/self/maps").read_text().splitlines()


def test_no_descriptor_and_no_mapping_is_left(memory: ReceiveMemory, tmp_path: Path) -> None:
    others = [take(memory), take(memory)]
    before = descriptors()
    for _ in range(50):
        room = take(memory)
        room.hold()
        room.release()
        del room
    assert descriptors() == before
    assert not any(f"{tmp_path}" in line for line in maps())
    del others


def test_where_the_disk_is_full_a_held_body_stays_in_memory(
    memory: ReceiveMemory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int, piece: memoryview) -> int:
        raise OSError(28, "No space left on device")

    others = [take(memory), take(memory)]
    room = take(memory)
    room.view[:] = b"y" * BODY
    before = descriptors()
    monkeypatch.setattr(os, "write", full)
    room.hold()
    assert bytes(room.view) == b"y" * BODY
    assert (memory.in_use, descriptors()) == (3 * BODY, before)
    assert "No space left on device" in caplog.text
    room.release()
    assert memory.in_use == 2 * BODY
    del others


def test_short_writes_to_the_file_are_gone_on_with(memory: ReceiveMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    write: Callable[[int, memoryview], int] = os.write
    body = random.Random(2).randbytes(BODY)
    others = [take(memory), take(memory)]
    room = take(memory)
    room.view[:] = body
    monkeypatch.setattr(os, "write", lambda descriptor, piece: write(descriptor, piece[:1000]))
    room.hold()
    assert bytes(room.view) == body
    del others


# --- lanes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ReceiveMemory:
    """Room for four bodies, and two lanes."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    return ReceiveMemory(4 * BODY, BODY, tmp_path)


@pytest.mark.parametrize("leave", [Room.leave_lane, Room.release])
def test_who_left_a_lane_lets_the_next_one_in(
    narrow: ReceiveMemory, monkeypatch: pytest.MonkeyPatch, leave: Callable[[Room], None]
) -> None:
    monkeypatch.setattr("flserver.network.memory.LANE_SECONDS", FOREVER)
    rooms = [narrow.take(BODY, Deadline.after(FOREVER)) for _ in range(2)]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(narrow.take, BODY, Deadline.after(FOREVER))
        assert not wait([waiting], SHORT).done, "there is memory, but no lane"
        leave(rooms[0])
        waiting.result(FOREVER / 3).release()


def test_a_slow_senders_lane_is_free_again_in_time(narrow: ReceiveMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flserver.network.memory.LANE_SECONDS", SHORT)
    started = monotonic()
    rooms = [narrow.take(BODY, Deadline.after(FOREVER)) for _ in range(4)]
    assert SHORT <= monotonic() - started < FOREVER / 2
    assert len(rooms) == 4


def test_who_waits_stops_waiting_when_the_server_stops(memory: ReceiveMemory) -> None:
    rooms = [take(memory) for _ in range(4)]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(take, memory)
        assert not wait([waiting], SHORT).done
        memory.close()
        with pytest.raises(ConnectionLost, match="stopping") as caught:
            waiting.result(FOREVER)
    assert caught.value.cause == "other"
    rooms[0].release()
    with pytest.raises(ConnectionLost, match="stopping"):
        take(memory)


def test_many_threads_share_the_budget_and_never_a_buffer(memory: ReceiveMemory) -> None:
    threads, rounds = 16, 40
    start = threading.Barrier(threads)

    def session(number: int) -> None:
        dice = random.Random(number)
        start.wait(FOREVER)
        for i in range(rounds):
            body = bytes([number]) * dice.randrange(1, BODY)
            room = take(memory, len(body))
            assert memory.in_use <= memory.budget
            room.view[:] = body
            if i % 2:
                room.hold()
            assert bytes(room.view) == body
            room.release()

    with ThreadPoolExecutor(threads) as pool:
        for result in [pool.submit(session, number) for number in range(threads)]:
            result.result(FOREVER)
    assert memory.in_use == 0
