"""Which layouts are learnt and kept, of whom, and at what cost."""

import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import torch

from flserver.wire import layouts
from flserver.wire.layouts import Layouts, layout_of
from flserver.wire.pieces import MOST_FRAMES
from tests.wire.updates import LIMITS, Deep, body_of, learnt, machine, recognised, said


def raising(error: Exception) -> Callable[[int], None]:
    def tick(size: int) -> None:
        raise error

    return tick


def unlike(number: int) -> bytes:
    """An update of another layout for each number."""
    more: Any = {"x" * number: None}
    return body_of(3, 1, **more)


def test_who_sends_always_something_else_is_learnt_from_ever_less_and_others_are_learnt_from_all_the_same() -> None:
    first = layouts.MOST_CREDIT // layouts.MISSES
    known = Layouts()
    learnings = []
    for number in range(layouts.MISSES * 3 + first):
        before = known.known
        learnt(unlike(number), of=known, owner="hostile")
        learnings.append(known.known != before)
    assert all(learnings[:first])
    assert sum(learnings[first:]) == 3
    honest = body_of(3)
    learnt(honest, of=known, owner="ward")
    assert recognised(known, honest) is not None


def test_learning_takes_little_more_memory_than_reading_whatever_the_message_is_made_of() -> None:
    """Also where it is all integers that could be the id, or texts, which are thrown away again."""
    body = body_of(1003)
    assert body[2:3] == pickle.FRAME
    for filling in (b"M\xeb\x03", b"\x8c\x05aaaaa"):
        filled = body[:2] + pickle.MARK + filling * 20_000 + pickle.POP_MARK + body[11:]
        update = machine(filled)
        assert update is not None
        tracemalloc.start()
        machine(filled)
        _, reading = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        layout_of(memoryview(filled), update, LIMITS, lambda size: None)
        _, learning = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert learning < 2 * reading


@pytest.mark.parametrize("most", ["MOST", "MOST_BYTES"])
def test_what_was_not_used_for_longest_goes(most: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used, *others = map(unlike, range(1, 12))
    known = learnt(used)
    weight = known.known[0].weight
    monkeypatch.setattr(layouts, most, 4 if most == "MOST" else 4 * weight + weight // 2)
    monkeypatch.setattr(layouts, "SHARES", 1)
    for owner, body in enumerate(others):
        learnt(body, of=known, owner=str(owner))
        assert recognised(known, used) is not None
    assert [recognised(known, body) is not None for body in others] == [False] * 7 + [True] * 3


@pytest.mark.parametrize("most", ["MOST", "MOST_BYTES"])
def test_an_owner_has_a_share_and_beyond_it_loses_its_own(most: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends always something else does not have the others' read by the machine."""
    fleet = list(map(unlike, range(1, 7)))
    known = Layouts()
    for owner, body in enumerate(fleet):
        learnt(body, of=known, owner=str(owner))
    weight = known.known[0].weight
    monkeypatch.setattr(layouts, most, 8 if most == "MOST" else 8 * weight + weight // 2)
    flood = list(map(unlike, range(7, 15)))
    learnt(*flood, of=known, owner="hostile")
    assert [recognised(known, body) is not None for body in fleet] == [True] * 6
    assert [recognised(known, body) is not None for body in flood] == [False] * 6 + [True] * 2


def test_who_comes_where_all_room_is_taken_has_a_share_too() -> None:
    known = Layouts()
    for owner in range(layouts.MOST):
        learnt(unlike(owner), of=known, owner=str(owner))
    mine = [unlike(layouts.MOST), unlike(layouts.MOST + 1)]
    learnt(*mine, of=known, owner="late")
    assert [recognised(known, body) is not None for body in mine * 2] == [True] * 4
    assert len(known.known) == layouts.MOST


def test_one_that_is_larger_than_a_share_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    body = body_of(3)
    weight = learnt(body).known[0].weight
    for most, kept in ((weight * layouts.SHARES, 1), (weight * layouts.SHARES - layouts.SHARES, 0)):
        monkeypatch.setattr(layouts, "MOST_BYTES", most)
        assert len(learnt(body).known) == kept


def test_what_is_being_learnt_or_known_is_learnt_no_second_time() -> None:
    """Others of a fleet send the like at the same time."""
    body = body_of(3)
    update, known, again = machine(body), Layouts(), list[int]()
    assert update is not None

    def tick(size: int) -> None:
        known.learn(memoryview(body), update, LIMITS, "", again.append)

    known.learn(memoryview(body), update, LIMITS, "", tick)
    known.learn(memoryview(body), update, LIMITS, "", again.append)
    assert len(known.known) == 1
    assert again == []
    known = Layouts()
    with pytest.raises(ValueError, match="ended"):
        known.learn(memoryview(body), update, LIMITS, "", raising(ValueError("ended")))
    known.learn(memoryview(body), update, LIMITS, "")
    assert len(known.known) == 1


def test_more_frames_than_are_looked_for_are_not_learnt() -> None:
    """Each would be a piece that is kept."""
    body = body_of(3)
    filled = body[:2] + b"(" + (b"\x95" + bytes(8) + b"N") * (MOST_FRAMES + 1) + b"1" + body[11:]
    assert machine(filled) is not None
    assert not learnt(filled).known


def test_a_layout_takes_about_its_weight() -> None:
    body = body_of(3, net=Deep)
    frames = body[:2] + b"(" + (b"\x95" + bytes(8) + b"N") * (MOST_FRAMES - 9) + b"1" + body[11:]
    shared = torch.nn.Linear(1, 1)
    many = body_of(3, net=lambda: torch.nn.ModuleList([shared] * (layouts.MOST_TENSORS // 2)))
    for each in (body, frames, many):
        update = machine(each)
        assert update is not None
        tracemalloc.start()
        layout = layout_of(memoryview(each), update, LIMITS, lambda size: None)
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert layout is not None
        assert taken < 1.25 * layout.weight < 8 * taken


def test_many_names_in_few_bytes_are_not_learnt() -> None:
    shared = torch.nn.Linear(1, 1)
    many = torch.nn.ModuleList([shared] * (layouts.MOST_TENSORS // 2 + 1))
    body = pickle.dumps({"header": "<MODEL>", "id": 3, "model": many})
    assert not learnt(body).known


def test_a_large_message_is_learnt_from_without_a_copy_of_it() -> None:
    bodies = [
        pickle.dumps({"header": "<MODEL>", "id": client_id, "model": torch.nn.Linear(1024, 1024)})
        for client_id in (3, 4)
    ]
    updates = [machine(body) for body in bodies]
    known, first = Layouts(), memoryview(bytearray(bodies[0]))
    tracemalloc.start()
    known.learn(first, updates[0], LIMITS, "")  # type: ignore[arg-type]
    taken, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken <= most < len(bodies[0]) / 16
    assert [said(recognised(known, body)) for body in bodies] == list(map(said, updates))
