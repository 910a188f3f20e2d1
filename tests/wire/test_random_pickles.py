"""Random programs and mutated messages: refused or read, whatever both ends do with them, and never at a price."""

import functools
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from flserver.errors import PickleRefused
from flserver.wire.inert import Call, Instance, Persistent, PickleLimits
from flserver.wire.machine import Machine
from flserver.wire.pickles import read
from tests.examples import times
from tests.fuzz.mutations import NUMBERS, OPCODES, claim, mutated, numbered, opcode, pieces, values
from tests.fuzz.seeds import NAMES, seeds
from tests.fuzz.target import read_in_every_way, try_input
from tests.wire.pickle_opcodes import call, file, mapping, message, module, pickled, storage, tensor, text

BASE, PER_BYTE = 128 * 1024, 400  # bytes of memory for small inputs: an empty dict in a memo is 200 for 2 bytes


@functools.cache
def bodies() -> list[bytes]:
    return [body for _, body in seeds()]


words = st.sampled_from([name.encode("utf-8", "surrogatepass") for name in (*NAMES, "\u0100", "\ud800", "é")])
arguments = st.binary(max_size=20) | words | st.text(max_size=8).map(str.encode)
numbers = st.integers(0, 8) | st.sampled_from(NUMBERS) | st.integers(0, 2**64 - 1)
any_opcode = st.builds(opcode, st.sampled_from(OPCODES), arguments, numbers)
# What leaves a value behind, so that a program goes on for longer than two opcodes.
a_claim = st.builds(claim, st.sampled_from(OPCODES), numbers)
a_value = st.builds(opcode, st.sampled_from(b"NKMJ\x8a\x8cXCB)]}\x8f(\x88Gh"), arguments, st.integers(0, 8))
programs = st.lists(any_opcode | a_value | a_claim | st.binary(max_size=3), max_size=60).map(b"".join)


def costs_in_proportion(body: bytes) -> None:
    found = try_input(body)
    assert found.peak < BASE + PER_BYTE * len(body), found.peak


@times(4)
@given(programs, st.integers(2, 5))
def test_a_program_of_any_opcodes_is_read_or_refused_and_costs_what_it_weighs(program: bytes, protocol: int) -> None:
    costs_in_proportion(b"\x80%c" % protocol + program)
    costs_in_proportion(b"\x80%c" % protocol + program + b".")


def test_a_claim_costs_nothing() -> None:
    for code in OPCODES:
        for number in NUMBERS:
            costs_in_proportion(b"\x80\x04(N" + claim(code, number) + b"N")


PLACES = {
    "message": pickled,
    "header": lambda value: pickled(mapping(header=value, model=module({"w": tensor()}))),
    "id": lambda value: pickled(mapping(header=text("<MODEL>"), id=value, model=module({"w": tensor()}))),
    "metrics": lambda value: pickled(mapping(header=text("<MODEL>"), id=b"K\x03", model=module(), metrics=value)),
    "model": lambda value: message(value),
    "child": lambda value: message(module(modules={"c": value})),
    "tensor": lambda value: message(module({"w": value})),
    "source": lambda value: message(module({"w": tensor(value)})),
    "payload": lambda value: message(module({"w": tensor(call("torch.storage", "_load_from_bytes", value))})),
    "file": lambda value: message(module({"w": tensor(storage(pickled(value)))})),
    "system": lambda value: message(module({"w": tensor(storage(file(system=value)))})),
    "keys": lambda value: message(module({"w": tensor(storage(file(keys=value)))})),
    "what": lambda value: message(module({"w": tensor(storage(file(what=value)))})),
}


@times(10)
@given(programs | a_value, st.sampled_from(sorted(PLACES)))
def test_a_program_in_any_place_of_a_message_is_read_or_refused(program: bytes, place: str) -> None:
    costs_in_proportion(PLACES[place](program))


@times(10)
@given(st.randoms(use_true_random=False), st.data())
def test_a_mutated_message_is_read_or_refused_and_costs_what_it_weighs(random: Random, data: st.DataObject) -> None:
    body = data.draw(st.sampled_from(bodies()))
    costs_in_proportion(mutated(body, random, bodies()))


puts = st.just(b"") | st.integers(0, 3).map(lambda index: b"q%c" % index)
new = {
    "list": b"]",
    "dict": b"}",
    "set": b"\x8f",
    "object": b"cm\nM\n)\x81",
    "call": b"cm\nf\n)R",
    "ordered": b"ccollections\nOrderedDict\n)R",
}


def container(kind: str, put: bytes, inner: list[bytes], marked: bool) -> bytes:
    """A container that is kept in the memo, or not, before it is filled."""
    items = [b"\x8c\x01a" + value for value in inner] if kind in ("dict", "ordered") else inner
    if kind == "object":
        return new[kind] + put + b"".join(value + b"b" for value in inner[:1])
    if marked or kind == "set":
        closing = {"dict": b"u", "ordered": b"u", "set": b"\x90"}.get(kind, b"e")
        return new[kind] + put + b"(" + b"".join(items) + closing
    return new[kind] + put + b"".join(item + (b"s" if items is not inner else b"a") for item in items)


around = st.sampled_from(((b"", b"\x85"), (b"(", b"t"), (b"(", b"\x91"), (b"cbuiltins\nset\n", b"\x85R"), (b"", b"0N")))
nested = st.recursive(
    st.integers(0, 3).map(lambda index: b"h%c" % index),
    lambda inner: (
        st.builds(container, st.sampled_from(sorted(new)), puts, st.lists(inner, max_size=3), st.booleans())
        | st.builds(lambda value, pair, put: pair[0] + value + pair[1] + put, inner, around, puts)
    ),
    max_leaves=8,
)


@times(30)
@given(nested, st.lists(nested, max_size=2))
def test_no_program_makes_a_circle(first: bytes, more: list[bytes]) -> None:
    try:
        tree = read(b"\x80\x04(" + first + b"".join(more) + b"t.")
    except PickleRefused:
        return
    finished: set[int] = set()
    pending: list[tuple[object, bool]] = [(tree, False)]
    above: set[int] = set()
    while pending:
        value, done = pending.pop()
        if done:
            above.remove(id(value))
            finished.add(id(value))
        elif id(value) not in finished:
            assert id(value) not in above
            above.add(id(value))
            pending.append((value, True))
            pending.extend((part, False) for part in parts(value))


def parts(value: object) -> list[object]:
    match value:
        case list() | tuple():
            return [*value]
        case dict():
            return [*value.values()]
        case Call():
            return [value.function, value.arguments]
        case Instance():
            return [value.cls, value.state]
        case Persistent():
            return [value.identity]
    return []


@times(3)
@given(st.randoms(use_true_random=False))
def test_a_tree_is_freed_with_its_last_reference(random: Random) -> None:
    """No cycles: what a mutated message was read into goes without the garbage collector, and lets its bytes go."""
    body = bytearray(mutated(random.choice(bodies()), random, bodies()))
    try:
        tree = read(body)
    except PickleRefused:
        pass
    else:
        del tree
    body.append(0)  # BufferError as long as anything views it


@times(3)
@given(st.lists(any_opcode | a_value | a_claim, max_size=200), st.integers(0, 60), st.integers(0, 3))
def test_a_machine_never_reads_more_opcodes_than_its_budget(program: list[bytes], budget: int, more: int) -> None:
    body = b"\x80\x04" + b"".join(program) + b"." * more
    machine = Machine(memoryview(body), PickleLimits(), opcodes=budget)
    try:
        machine.load()
    except PickleRefused as error:
        if "too many opcodes" in str(error):
            assert machine.opcodes_left == 0
    assert 0 <= machine.opcodes_left <= budget
    assert machine.position <= len(body)


def test_a_message_is_the_sum_of_its_pieces_and_one_value() -> None:
    """The mutations see the structure that they change."""
    for body in bodies():
        found = pieces(body)
        assert b"".join(found) == body
        if body[0] == 0x80:
            start, end = max(values(found), key=lambda span: span[1] - span[0])
            assert all(piece[0] in b"\x80\x95.q\x94" for piece in (*found[:start], *found[end:]))
            assert read_in_every_way(b"".join(numbered(found))) == read_in_every_way(body)
