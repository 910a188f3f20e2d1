"""An update of a layout that came before is read to the machine's own result, and what is not of it is left to that."""

import pickle
import pickletools
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from flserver.errors import MessageRefused, PickleRefused
from flserver.wire.layouts import Layout, Layouts, layout_of
from flserver.wire.messages import Update, decode
from flserver.wire.pickles import PickleLimits
from flserver.wire.pieces import HEAD, frames_of
from flserver.wire.tracing import Text
from tests.examples import times
from tests.fuzz.mutations import mutated
from tests.wire.updates import (
    LAYOUTS,
    LIMITS,
    OTHERS,
    Deep,
    Net,
    body_of,
    kept,
    learnt,
    machine,
    other_keys,
    recognised,
    said,
)


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize(
    ("first", "other"), [(3, 250), (1003, 2007), (70_000, 3), (10, 1003), (2, 70_000), (300, 2**31 - 1)]
)
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
@pytest.mark.parametrize("others", [("alice", "clara", "zoé1", "x", "y" * 90), ("ward-0007", "ward-1234"), ("3", "x")])
def test_an_id_that_is_text_may_be_another(others: tuple[str, ...], protocol: int) -> None:
    first, *_ = others
    known = learnt(body_of(first, 1, protocol))
    for number, client_id in enumerate(others):
        body = body_of(client_id, number, protocol)
        found = recognised(known, body)
        assert found is not None
        assert found.client_id == client_id
        assert said(found) == said(machine(body))


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("client_id", ["alice", 3])
@pytest.mark.parametrize("net", [Net, Deep])
def test_keys_may_have_other_lengths_and_frames_begin_elsewhere(
    net: Callable[[], torch.nn.Module], client_id: object, protocol: int
) -> None:
    known, seen = learnt(body_of(client_id, 0, protocol, net)), set[tuple[int, ...]]()
    for seed in range(8):
        body = body_of(client_id, seed, protocol, net, other_keys(Random(seed)))
        seen.add(tuple(frames_of(memoryview(body))))
        assert said(recognised(known, body)) == said(machine(body)) is not None
        assert said(recognised(learnt(body), body_of(client_id, 0, protocol, net))) is not None
    if protocol == 3:
        assert seen == {()}
    else:
        assert len(seen) > 5 if net is Deep else seen == {(2,)}


def test_keys_that_are_longer_than_any_address_are_left_to_the_machine() -> None:
    """Of more than 64 KiB they are no text to it."""
    body = body_of(3, files=other_keys(Random(1), 100_000))
    assert machine(body) is None
    assert recognised(learnt(body_of(3)), body) is None


def test_a_file_with_frames_has_keys_of_the_same_length_or_is_left_to_the_machine() -> None:
    """With a shorter key a frame may reach beyond the file's end, which is refused."""

    def framed(digits: int) -> Callable[[bytes], bytes]:
        def change(file: bytes) -> bytes:
            file = re.sub(rb"X....\d{8,}(?=q)", b"X" + bytes([digits, 0, 0, 0]) + b"7" * digits, file, count=2)
            at = file.index(b"(X\x07\x00\x00\x00storage")
            size = len(file) - at + 2 * (14 - digits)
            return file[:at] + b"\x95" + size.to_bytes(8, "little") + file[at:]

        return change

    first, again, shorter = (body_of(3, seed, files=framed(digits)) for seed, digits in ((1, 14), (2, 14), (1, 13)))
    assert machine(shorter) is None
    known = learnt(first)
    assert said(recognised(known, again)) == said(machine(again)) is not None
    assert recognised(known, shorter) is None


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
    at = layout.reading.keys[0][place].start
    other[at : at + 1] = text if body[at : at + 1] != text else b"8"
    assert machine(bytes(other)) is None
    assert not layout.fits(memoryview(other))


def test_limits_are_the_ones_that_it_was_read_within() -> None:
    known, body = learnt(body_of(3)), body_of(4)
    assert known.recognise(memoryview(body), PickleLimits(opcodes=10)) is None
    assert known.recognise(memoryview(body), PickleLimits()) is not None


@pytest.mark.parametrize(
    ("limits", "first", "others"),
    [
        (PickleLimits(text_bytes=64), "alice", ("y" * 64, "y" * 65, "y" * 70)),
        (PickleLimits(integer_bytes=2), 3, (300, 70_000)),
    ],
)
def test_what_is_longer_than_the_limits_allow_is_left_to_the_machine(
    limits: PickleLimits, first: object, others: Sequence[object]
) -> None:
    # Their magic number is an integer of ten bytes
    net: Callable[[], torch.nn.Module] = Net if limits.integer_bytes > 9 else torch.nn.Module
    body, known = body_of(first, net=net), Layouts()
    message = decode(memoryview(body), from_client=True, pickles=limits)
    assert isinstance(message, Update)
    known.learn(memoryview(body), message, limits, "")
    read = []
    for other in others:
        body = body_of(other, net=net)
        found = known.recognise(memoryview(body), limits) is not None
        with suppress(PickleRefused, MessageRefused):
            decode(memoryview(body), from_client=True, pickles=limits)
            assert found
            read.append(other)
            continue
        assert not found
    assert read == [others[0]]


def test_a_message_whose_tensors_are_text_has_no_layout() -> None:
    body = body_of(3, protocol=2)
    update = machine(body)
    assert update is not None
    assert layout_of(memoryview(body), update, LIMITS, lambda size: None) is None


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


@pytest.mark.parametrize("which", range(3))
def test_whichever_byte_of_a_message_of_other_lengths_is_another_one_it_is_not_misread(which: int) -> None:
    body, layout = OTHERS[which]
    read = 0
    for at in range(len(body)):
        for value in {0, 1, 0x95, 255, body[at] + 1 & 255, body[at] - 1 & 255} - {body[at]}:
            other = bytearray(body)
            other[at] = value
            if (found := kept(layout).recognise(memoryview(other), layout.limits)) is not None:
                read += 1
                assert said(found) == said(machine(bytes(other)))
    assert read > 100  # numbers


def test_a_frame_may_begin_at_any_opcode_and_nowhere_else() -> None:
    body, layout = OTHERS[-1]
    first, second, *_ = frames_of(memoryview(body))
    opcodes = {at for _, _, at in pickletools.genops(body) if at is not None}
    begins = 0
    for at in range(second - 300, second + 300):
        without = body[:second] + body[second + HEAD :]
        end = second + HEAD + int.from_bytes(body[second + 1 : second + HEAD], "little")
        other = bytearray(without[:at] + b"\x95" + (end - HEAD - at).to_bytes(8, "little") + without[at:])
        other[first + 1 : first + HEAD] = (at - first - HEAD).to_bytes(8, "little")
        found = kept(layout).recognise(memoryview(other), layout.limits)
        at_an_opcode = (at if at < second else at + HEAD) in opcodes
        assert (found is not None) == at_an_opcode
        if found is not None:
            begins += 1
            assert said(found) == said(machine(bytes(other)))
    assert begins > 20


def test_more_frames_than_opcodes_may_be_read_are_left_to_the_machine() -> None:
    body = body_of("alice")
    more = body[:2] + b"\x95" + bytes(8) + body[2:]
    seen = []
    for opcodes in range(len(list(pickletools.genops(body))) - 1, len(list(pickletools.genops(more))) + 1):
        limits = PickleLimits(opcodes=opcodes)
        known = Layouts()
        message = decode(memoryview(body), from_client=True, pickles=limits)
        assert isinstance(message, Update)
        known.learn(memoryview(body), message, limits, "")
        read = known.recognise(memoryview(more), limits) is not None
        with suppress(PickleRefused):
            assert decode(memoryview(more), from_client=True, pickles=limits) is not None
            assert read
            seen.append("read")
            continue
        assert not read
        seen.append("refused")
    assert seen == ["refused", "read", "read"]


@times(3)
@given(st.randoms(use_true_random=False), st.sampled_from(OTHERS))
def test_a_mutated_message_of_other_lengths_is_read_as_the_machine_reads_it_or_not_recognised(
    random: Random, known: tuple[bytes, Layout]
) -> None:
    """Most of all where lengths stand, and what begins there."""
    body, layout = known
    assert kept(layout).recognise(memoryview(body), layout.limits) is not None
    other = bytearray(body)
    places = [found.start() for found in re.finditer(rb"[XB\x8c\x95]", body[:3000] + body[-3000:])]
    for _ in range(random.randint(1, 3)):
        at = random.choice([random.choice(places), random.randrange(len(body))]) + random.randrange(10)
        at = at if at < 3000 else at - min(6000, len(body)) + len(body)
        if not 0 <= at < len(other):
            continue
        change = random.randrange(4)
        if change == 0:
            del other[at : at + random.randint(1, 9)]
        elif change == 1:
            other[at:at] = bytes(random.choice(b"0123\x95X\x00\x01") for _ in range(random.randint(1, 9)))
        else:
            other[at] = random.choice([random.randrange(256), other[at] + 1 & 255, other[at] - 1 & 255])
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
    if isinstance(layout.reading.client_id, Text):  # an id, else it is left to the machine
        place = layout.reading.client_id
        other[place.at : place.at + place.width] = bytes(97 + byte % 26 for byte in numbers * 64)[: place.width]
    for one, twin in layout.reading.keys:
        other[one] = other[twin] = bytes(48 + byte % 10 for byte in other[one])
    assert layout.fits(memoryview(other))
    found = kept(layout).recognise(memoryview(other), layout.limits)
    assert said(found) == said(machine(bytes(other))) is not None
