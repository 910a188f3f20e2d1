"""An update of a layout that came before is read to the machine's own result, and what is not of it is left to that."""

import pickle
import tracemalloc
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from flserver.errors import MessageRefused, PickleRefused
from flserver.wire import layouts
from flserver.wire.layouts import Layout, Layouts, layout_of
from flserver.wire.messages import Update, decode
from flserver.wire.pickles import PickleLimits
from flserver.wire.tracing import Number, Text
from tests.examples import times
from tests.fuzz.mutations import mutated
from tests.fuzz.seeds import seeds

LIMITS = PickleLimits()


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm = torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)
        self.tied = torch.nn.Linear(3, 2, bias=False)
        self.tied.weight = self.fc1.weight
        self.rate = 0.25


def body_of(client_id: object, seed: int = 1, protocol: int = 4, **more: object) -> bytes:
    torch.manual_seed(seed)
    return pickle.dumps({"header": "<MODEL>", "id": client_id, "model": Net()} | more, protocol)


def machine(body: bytes) -> Update | None:
    """What the machine makes of it."""
    try:
        message = decode(memoryview(body), from_client=True, pickles=LIMITS)
    except (MessageRefused, PickleRefused):
        return None
    assert isinstance(message, Update)
    return message


def said(update: Update | None) -> Any:
    """All of a message, to be compared; NaN too."""
    if update is None:
        return None
    tensors = [
        (name, view.dtype, view.shape, view.stride, view.offset, bytes(view.storage))
        for name, view in update.model.tensors.items()
    ]
    views = list(update.model.tensors.values())
    sharing = [[one is other for other in views] for one in views]
    return repr((update.client_id, update.metrics)), tensors, sharing, update.model.steps


def raising(error: Exception) -> Callable[[int], None]:
    def tick(size: int) -> None:
        raise error

    return tick


def learnt(*bodies: bytes, of: Layouts | None = None, owner: str = "") -> Layouts:
    known = of or Layouts()
    for body in bodies:
        update = machine(body)
        assert update is not None
        known.learn(memoryview(body), update, LIMITS, owner)
    return known


def recognised(known: Layouts, body: bytes) -> Update | None:
    return known.recognise(memoryview(body), LIMITS)


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize(("first", "other"), [(3, 250), (1003, 2007), (70_000, 90_001), (10, 3), (2, 7)])
def test_another_clients_update_with_other_numbers_is_recognised(protocol: int, first: int, other: int) -> None:
    metrics = [
        {"loss": {"received": loss, "trained": loss / 3}, "steps": {"trained": 8}} for loss in (0.7, float("nan"))
    ]
    one = body_of(first, 1, protocol, metrics=metrics[0])
    two = body_of(other, 2, protocol, metrics=metrics[1])
    known = learnt(one)
    for body in (one, two):
        assert said(recognised(known, body)) == said(machine(body)) is not None


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("others", [("alice", "clara", "zoé1"), ("ward-0007", "ward-1234"), ("3", "x")])
def test_an_id_that_is_text_may_be_another_of_as_many_bytes(others: tuple[str, ...], protocol: int) -> None:
    first, *_ = others
    known = learnt(body_of(first, 1, protocol))
    for number, client_id in enumerate(others):
        body = body_of(client_id, number, protocol)
        found = recognised(known, body)
        assert found is not None
        assert found.client_id == client_id
        assert said(found) == said(machine(body))
    assert recognised(known, body_of(first + "e", 2, protocol)) is None


@pytest.mark.parametrize("text", ["\uff11ab", "   ab", "a\x00bcd", "a\nbcd", b"\xff\xfeabc", b"\xed\xa0\x80ab"])
def test_a_text_that_is_no_id_is_left_to_the_machine(text: str | bytes) -> None:
    body = body_of("alice")
    known = learnt(body)
    other = body.replace(b"alice", text if isinstance(text, bytes) else text.encode(), 1)
    assert machine(other) is None
    assert recognised(known, other) is None


def test_an_id_that_is_a_key_as_well_is_recognised_as_that_clients_alone() -> None:
    """Named as another key is, it would take that one's place."""
    name, other = "ali" + "ce", "mod" + "el"
    more: Any = {name: None}
    plain = body_of(name, 1, **more)
    assert plain.count(b"alice") == 1
    at = plain.index(b"alice")
    hostile = plain[:at] + other.encode() + plain[at + len(other) :]
    assert machine(hostile) is None
    known = learnt(plain)
    assert recognised(known, plain) is not None
    assert recognised(known, hostile) is None


def test_what_the_id_is_besides_is_not_overlooked() -> None:
    """One object in two places of the pickle: the id, and a size of the tensor."""
    plain = body_of(3, protocol=3)
    # The id is kept in the memo, under an index nobody uses, and the shape of fc1.weight, (2, 3), takes it from there.
    shared = plain.replace(b"K\x03", b"K\x03q\xff", 1).replace(b"K\x02K\x03\x86", b"K\x02h\xff\x86", 1)
    other = bytearray(shared)
    other[shared.index(b"K\x03q\xff") + 1] = 9
    assert said(machine(shared)) is not None
    assert machine(bytes(other)) is None
    known = learnt(shared)
    assert said(recognised(known, shared)) == said(machine(shared))
    assert recognised(known, bytes(other)) is None


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("text", [b"7", b"x"])
def test_a_key_that_differs_from_itself_or_is_no_digits_is_left_to_the_machine(place: int, text: bytes) -> None:
    body = body_of(3)
    update = machine(body)
    assert update is not None
    layout = layout_of(memoryview(body), update, LIMITS, lambda size: None)
    assert layout is not None
    other = bytearray(body)
    at = layout.keys[0][place].start
    other[at : at + 1] = text if body[at : at + 1] != text else b"8"
    assert machine(bytes(other)) is None
    assert not layout.fits(memoryview(other))


def test_limits_are_the_ones_that_it_was_read_within() -> None:
    known, body = learnt(body_of(3)), body_of(4)
    assert known.recognise(memoryview(body), PickleLimits(opcodes=10)) is None
    assert known.recognise(memoryview(body), PickleLimits()) is not None


def test_a_message_whose_tensors_are_text_has_no_layout() -> None:
    body = body_of(3, protocol=2)
    update = machine(body)
    assert update is not None
    assert layout_of(memoryview(body), update, LIMITS, lambda size: None) is None


def test_what_is_kept_is_bounded_and_who_sends_always_something_else_is_learnt_from_ever_less() -> None:
    known = learnt(*(body_of("x" * (1 + number % 60), number, more=number * 1000) for number in range(300)))
    assert len(known.known) == layouts.MOST
    before = known.known
    for number in range(layouts.MISSES * 3):
        learnt(body_of("y" * 61, more=number * 1000), of=known)
    assert len([layout for layout in before if layout not in known.known]) <= 3


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


def test_what_is_kept_takes_so_many_bytes_together_and_the_last_ones_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = [body_of("x" * length) for length in range(1, 9)]
    (weight,) = {layout.weight for layout in learnt(bodies[0]).known}
    monkeypatch.setattr(layouts, "MOST_BYTES", 3 * weight + weight // 2)
    known = learnt(*bodies)
    assert [recognised(known, body) is not None for body in bodies] == [False] * 5 + [True] * 3


def test_what_is_in_use_stays() -> None:
    used, *others = (body_of("x" * length) for length in range(1, layouts.MOST + 9))
    known = learnt(used)
    for body in others:
        learnt(body, of=known)
        assert recognised(known, used) is not None
    assert len(known.known) == layouts.MOST


@pytest.mark.parametrize("most", ["MOST", "MOST_BYTES"])
def test_whose_layouts_take_the_most_room_loses_its_own(most: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends always something else does not have the others' read by the machine."""
    fleet = [body_of("x" * length) for length in (1, 2)]
    known = learnt(fleet[0], owner="ward")
    weight = known.known[0].weight
    monkeypatch.setattr(layouts, most, 6 if most == "MOST" else 6 * weight + weight // 2)
    monkeypatch.setattr(layouts, "MISSES", 0)
    learnt(fleet[1], of=known, owner="clinic")
    flood = [body_of("y" * length) for length in range(3, 30)]
    learnt(*flood, of=known, owner="hostile")
    assert len(known.known) == 6
    assert [recognised(known, body) is not None for body in fleet] == [True, True]
    assert [recognised(known, body) is not None for body in flood] == [False] * 23 + [True] * 4


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


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet50", "densenet121"])
def test_updates_of_real_networks_are_recognised(name: str) -> None:
    """They have hundreds of tensors, each with a file of its own, which the machine takes a tenth of a second for."""
    with torch.device("meta"):
        network = getattr(torchvision.models, name)()
    network = network.to_empty(device="cpu")
    one, other = (pickle.dumps({"header": "<MODEL>", "id": client_id, "model": network}) for client_id in (300, 400))
    found = recognised(learnt(one), other)
    assert found is not None
    assert found.client_id == "400"
    assert list(found.model.tensors) == list(network.state_dict())


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


def layouts_of_seeds() -> list[tuple[bytes, Layout]]:
    found = []
    for _, body in seeds():
        try:
            message = decode(memoryview(body), from_client=True, pickles=LIMITS)
        except (MessageRefused, PickleRefused):
            continue
        if isinstance(message, Update):
            layout = layout_of(memoryview(body), message, LIMITS, lambda size: None)
            found += [(body, layout)] if layout else []
    assert len(found) > 5
    return found


LAYOUTS = layouts_of_seeds()
assert {type(layout.client_id) for _, layout in LAYOUTS} == {Number, Text}


def kept(layout: Layout) -> Layouts:
    layouts = Layouts()
    layouts.known = (layout,)
    return layouts


@times(3)
@given(st.randoms(use_true_random=False), st.sampled_from(LAYOUTS))
def test_a_mutated_message_is_read_as_the_machine_reads_it_or_not_recognised(
    random: Random, known: tuple[bytes, Layout]
) -> None:
    body, layout = known
    other = bytearray(mutated(body, random, [body for body, _ in LAYOUTS]))
    for _ in range(random.randrange(3)):  # blindly, and where numbers are
        place = random.choice([part.stop for part in layout.rest[:-1]] or [0])
        at = random.choice([place, place + 1, random.randrange(len(other) + 1)])
        if at < len(other):
            other[at] = random.randrange(256)
    view = memoryview(bytes(other))
    if (found := kept(layout).recognise(view, layout.limits)) is not None:
        assert said(found) == said(machine(bytes(view)))


@times(3)
@given(st.binary(min_size=1, max_size=64), st.sampled_from(LAYOUTS))
def test_whatever_the_numbers_are_the_result_is_the_machines(numbers: bytes, known: tuple[bytes, Layout]) -> None:
    body, layout = known
    other, end = bytearray(body), 0
    for part in layout.rest:
        size = part.start - end
        other[end : part.start] = (numbers * (size // len(numbers) + 1))[:size]
        end = part.stop
    for one, twin in layout.keys:
        other[one] = other[twin] = bytes(48 + byte % 10 for byte in other[one])
    assert layout.fits(memoryview(other))
    found = kept(layout).recognise(memoryview(other), layout.limits)
    assert said(found) == said(machine(bytes(other)))
    assert found is not None or isinstance(layout.client_id, Text)
