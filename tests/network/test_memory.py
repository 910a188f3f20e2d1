"""The memory for updates: a budget that is kept, room that comes back, and files where it is tight."""

import gc
import mmap
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flserver.errors import NoRoom
from flserver.network.memory import ReceiveMemory, Room
from tests.patience import PATIENCE

BODY = 1 << 16  # bytes
UNBOUNDED = 1 << 40  # bytes that an owner may have under way
FOREVER = 3 * PATIENCE  # seconds


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReceiveMemory:
    """Room for four bodies, a quarter of one at a time, and eight lanes."""
    monkeypatch.setattr("flserver.network.memory.processors", lambda: 7)
    for step in ("STEP", "FIRST_STEP"):
        monkeypatch.setattr(f"flserver.network.memory.{step}", BODY // 4)
    return ReceiveMemory(budget=4 * BODY, usual=BODY, directory=tmp_path / "checkpoints")


def take(memory: ReceiveMemory, size: int = BODY) -> Room:
    """Room of a sender whose body is there at once: its lane is free again."""
    room = memory.take(size, "a client", UNBOUNDED)
    room.leave_lane()
    room.make(size, 0)
    return room


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def maps() -> list[str]:
    return Path("/proc/self/maps").read_text().splitlines()


def in_a_file(memory: ReceiveMemory, arrived: int = BODY // 2) -> tuple[Room, bytes, list[Room]]:
    """A room that moved to a file after ``arrived`` bytes, those bytes, and the rooms that use up the budget."""
    room = memory.take(BODY, "a client", UNBOUNDED)
    room.leave_lane()
    assert not room.make(arrived, 0)
    opening = random.Random(3).randbytes(arrived)
    room.view[:arrived] = opening
    others = [take(memory) for _ in range(3)]
    others.append(take(memory, BODY - arrived))
    assert memory.in_use == memory.budget
    assert room.make(arrived + 1, arrived), "it moved"
    return room, opening, others


def test_the_budget_is_never_too_small_for_four_bodies(tmp_path: Path) -> None:
    assert ReceiveMemory(1, BODY, tmp_path).budget == 4 * BODY
    assert ReceiveMemory(100 * BODY, BODY, tmp_path).budget == 100 * BODY


def test_room_is_as_large_as_asked_for_and_writable(memory: ReceiveMemory) -> None:
    room = take(memory, 12_345)
    assert (len(room.view), room.view.readonly, memory.in_use) == (12_345, False, 12_345)
    room.view[:] = b"x" * 12_345
    room.release()
    assert memory.in_use == 0


def test_what_is_claimed_costs_nothing_and_what_arrives_a_step_at_a_time(memory: ReceiveMemory) -> None:
    room = memory.take(BODY, "a client", UNBOUNDED)
    assert memory.in_use == 0
    for arrived, used in ((1, 1), (BODY // 4, 1), (BODY // 4 + 1, 2), (BODY, 4)):
        assert not room.make(arrived, 0)
        assert memory.in_use == used * BODY // 4
    room.release()
    assert memory.in_use == 0


def test_releasing_twice_gives_back_once(memory: ReceiveMemory) -> None:
    first, second = take(memory), take(memory)
    first.release()
    first.release()
    assert memory.in_use == BODY
    second.release()


def test_over_the_budget_nobody_waits_and_the_body_goes_on_in_an_unlinked_file(
    memory: ReceiveMemory, tmp_path: Path
) -> None:
    room, opening, others = in_a_file(memory)
    assert memory.in_use == memory.budget - BODY // 2, "what it used is free"
    assert bytes(room.view[: len(opening)]) == opening
    assert not any(room.make(upto, len(opening)) for upto in (len(opening) + 1, BODY // 2 + 2, BODY)), "once"
    room.view[len(opening) :] = bytes(BODY - len(opening))
    room.hold(BODY)
    assert bytes(room.view) == opening + bytes(BODY - len(opening))
    assert any(f"{tmp_path}/checkpoints/" in line and "(deleted)" in line for line in maps())
    assert list((tmp_path / "checkpoints").iterdir()) == []
    room.release()
    for other in others:
        other.release()
    assert memory.in_use == 0


def test_of_a_body_longer_than_usual_no_more_than_such_a_one_lies_in_memory(memory: ReceiveMemory) -> None:
    long = 3 * BODY
    room, body = memory.take(long, "a client", UNBOUNDED), random.Random(4).randbytes(long)
    room.leave_lane()
    assert len(room.view) == memory.most < long
    for at in range(0, long, BODY // 8):
        assert room.make(at + BODY // 8, at) == (at == memory.most), "it moved once"
        assert memory.in_use == (min(at + BODY // 8, memory.most) + 16383) // 16384 * 16384 * (at < memory.most)
        room.view[at : at + BODY // 8] = body[at : at + BODY // 8]
    room.hold(long)
    assert bytes(room.view) == body
    room.release()


def test_a_spare_buffer_serves_a_longer_body_as_far_as_it_goes(memory: ReceiveMemory) -> None:
    spare = take(memory, BODY)
    spare.release()
    room = memory.take(5 * BODY, "a client", UNBOUNDED)
    room.leave_lane()
    for at in range(0, 5 * BODY, BODY // 8):
        room.make(at + BODY // 8, at)
        assert len(room.view) >= at + BODY // 8
    room.release()
    assert memory.in_use == 0


def test_what_is_held_is_what_was_kept(memory: ReceiveMemory) -> None:
    others = [take(memory), take(memory)]
    room = memory.take(3 * BODY, "a client", UNBOUNDED)
    room.leave_lane()
    room.make(BODY, 0)
    room.view[:100] = b"k" * 100
    room.hold(100)
    assert bytes(room.view) == b"k" * 100
    del others


def test_one_body_of_more_than_a_share_is_told_which_option_takes_it(memory: ReceiveMemory) -> None:
    room = memory.take(5 * BODY, "me", 2 * BODY)
    room.leave_lane()
    room.make(3 * BODY, BODY)
    with pytest.raises(NoRoom, match=f"holds more than {2 * BODY} bytes: --max-update-size {5 * BODY} takes it"):
        room.make(3 * BODY, 2 * BODY + 1)
    room.release()


def test_a_file_has_its_place_on_the_disk_before_it_is_written_to(memory: ReceiveMemory) -> None:
    room, _, _ = in_a_file(memory)
    assert room._file is not None
    blocks = os.fstat(room._file.fileno()).st_blocks * 512
    assert BODY // 2 < blocks < BODY, "a step more than what arrived, and not what was claimed"
    room.release()


@pytest.mark.parametrize("arrived", [BODY // 4, BODY // 2])
def test_the_disk_keeps_its_reserve(memory: ReceiveMemory, monkeypatch: pytest.MonkeyPatch, arrived: int) -> None:
    room, _, others = in_a_file(memory, arrived)
    full = os.statvfs_result((4096, 4096, 10**9, 16_000, 16_000, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "fstatvfs", lambda descriptor: full)
    before = descriptors()
    with pytest.raises(NoRoom, match="neither memory nor disk has room for it: No space left"):
        room.make(BODY, arrived)
    late = memory.take(BODY, "a client", UNBOUNDED)
    with pytest.raises(NoRoom, match="neither memory nor disk"):
        late.make(BODY, 0)
    late.release()
    assert descriptors() <= before
    room.release()
    for other in others:
        other.release()
    assert memory.in_use == 0


def test_room_that_the_system_refuses_is_not_counted(memory: ReceiveMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **more: object) -> mmap.mmap:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(NoRoom, match="Cannot allocate memory"):
        memory.take(BODY, "a client", UNBOUNDED)
    assert memory.in_use == 0


def test_buffers_are_used_again_and_the_smallest_that_fits_first(memory: ReceiveMemory) -> None:
    large, small = take(memory, BODY), take(memory, BODY // 2)
    large.release()
    small.release()
    again = [take(memory, BODY // 2 - 7), take(memory, BODY // 2 - 7)]
    assert again[0].view.obj is small.view.obj
    assert again[1].view.obj is not small.view.obj
    assert [len(room.view) for room in again] == [BODY // 2 - 7] * 2


def test_a_small_body_does_not_take_a_large_spare_buffer(memory: ReceiveMemory) -> None:
    large = take(memory, BODY)
    large.release()
    small = take(memory, BODY // 4)
    assert small.view.obj is not large.view.obj
    assert memory.in_use == BODY // 4, "what is backed by memory is charged"


def test_an_owner_has_no_more_than_its_share_by_what_has_arrived(memory: ReceiveMemory) -> None:
    mine = [memory.take(BODY, "me", BODY) for _ in range(5)]
    for room in mine[:4]:
        room.make(BODY, BODY // 5)  # stalled, each with what it claims far beyond the share
    mine[4].make(BODY, BODY // 5)
    with pytest.raises(NoRoom, match=f"more than {BODY} bytes of updates are under way"):
        mine[4].make(BODY, BODY // 5 + 2)
    yours = memory.take(BODY, "you", BODY)
    yours.make(BODY, BODY)
    mine[0].release()
    mine[0].release()
    mine[4].make(BODY, 2 * BODY // 5)
    for room in mine:
        room.release()
    assert set(memory._owned) == {"you"}
    yours.release()
    assert memory._owned == {}


def test_fewer_buffers_are_kept_than_there_are_lanes_and_within_the_budget(memory: ReceiveMemory) -> None:
    rooms = [take(memory, BODY // 2) for _ in range(8)]
    for room in rooms:
        room.release()
    assert len(memory._spare) == 7
    again = take(memory, BODY // 2)
    assert any(again.view.obj is old.view.obj for old in rooms)
    whole = [take(memory) for _ in range(3)]
    assert memory.in_use + sum(map(len, memory._spare)) <= memory.budget, "spare ones make way"
    del whole


def test_what_is_not_kept_is_given_back_at_once_although_there_are_views_of_it(memory: ReceiveMemory) -> None:
    rooms = [take(memory, BODY // 2) for _ in range(memory.lanes.count)]
    views = [room.view for room in rooms]
    for room in rooms:
        room.view[:] = b"x" * (BODY // 2)
        room.release()
    kept = [view for view in views if any(view.obj is spare for spare in memory._spare)]
    dropped = [view for view in views if view not in kept]
    assert (len(kept), len(dropped)) == (memory.lanes.count - 1, 1)
    assert bytes(dropped[0]) == bytes(BODY // 2)


def test_the_rounds_sum_is_counted_as_long_as_it_is_kept(memory: ReceiveMemory) -> None:
    scratch = memory.scratch(BODY)
    assert (len(scratch), bytes(scratch), memory.in_use) == (BODY, bytes(BODY), BODY)
    scratch[:3] = b"sum"
    del scratch
    gc.collect()
    assert memory.in_use == 0


def test_over_the_budget_the_rounds_sum_lies_in_an_unlinked_file(memory: ReceiveMemory, tmp_path: Path) -> None:
    rooms = [take(memory) for _ in range(4)]
    scratch = memory.scratch(BODY)
    assert memory.in_use == memory.budget
    scratch[:3] = b"sum"
    assert bytes(scratch[:4]) == b"sum\0"
    assert any(f"{tmp_path}/checkpoints/" in line and "(deleted)" in line for line in maps())
    del rooms


def test_where_neither_has_room_for_the_rounds_sum_that_is_said(
    memory: ReceiveMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms, before = [take(memory) for _ in range(4)], descriptors()
    full = os.statvfs_result((4096, 4096, 10**9, 16_000, 16_000, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "fstatvfs", lambda descriptor: full)
    with pytest.raises(NoRoom, match="neither memory nor disk has room for the round's sum: No space left"):
        memory.scratch(BODY)
    assert (memory.in_use, descriptors()) == (memory.budget, before)
    del rooms


def test_where_memory_is_not_tight_a_held_body_stays_where_it_is(memory: ReceiveMemory) -> None:
    room = take(memory)
    view = room.view
    room.hold(BODY)
    assert room.view is view
    assert memory.in_use == BODY


def test_where_it_is_tight_a_held_body_moves_to_a_file_and_its_memory_comes_back(
    memory: ReceiveMemory, tmp_path: Path
) -> None:
    body = random.Random(1).randbytes(BODY)
    others = [take(memory), take(memory)]
    room = take(memory)
    room.view[:] = body
    room.hold(BODY)
    assert memory.in_use == 2 * BODY
    assert (bytes(room.view), room.view.readonly) == (body, True)
    assert any(f"{tmp_path}/checkpoints/" in line and "(deleted)" in line for line in maps()), "in an unlinked file"
    assert list((tmp_path / "checkpoints").iterdir()) == []
    take(memory).view[:] = bytes(BODY)  # what uses the memory next does not show in the file
    assert bytes(room.view) == body
    room.hold(BODY)
    room.release()
    assert memory.in_use == 3 * BODY, "given back once"
    del others


def test_no_descriptor_and_no_mapping_is_left(memory: ReceiveMemory, tmp_path: Path) -> None:
    others = [take(memory), take(memory)]
    before = descriptors()
    for _ in range(50):
        room = take(memory)
        room.hold(BODY)
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
    room.hold(BODY)
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
    room.hold(BODY)
    assert bytes(room.view) == body
    del others


def test_many_threads_share_the_budget_and_never_a_buffer(memory: ReceiveMemory) -> None:
    threads, rounds = 16, 40
    start = threading.Barrier(threads)

    def session(number: int) -> None:
        dice = random.Random(number)
        start.wait(FOREVER)
        for i in range(rounds):
            body = bytes([number]) * dice.randrange(1, BODY)
            room = memory.take(len(body), "a client", UNBOUNDED)
            room.leave_lane()
            for at in range(0, len(body), BODY // 5):
                room.make(min(at + BODY // 5, len(body)), at)
                assert memory.in_use <= memory.budget
                room.view[at : at + BODY // 5] = body[at : at + BODY // 5]
            if i % 2:
                room.hold(len(body))
            assert bytes(room.view) == body
            room.release()

    with ThreadPoolExecutor(threads) as pool:
        for result in [pool.submit(session, number) for number in range(threads)]:
            result.result(FOREVER)
    assert memory.in_use == 0
