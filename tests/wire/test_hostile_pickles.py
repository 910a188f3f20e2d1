"""Whatever the bytes are: nothing runs, nothing is imported, and the answer comes at once or PickleRefused does."""

import contextlib
import functools
import os
import pickle
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flserver.errors import PickleRefused
from flserver.wire.inert import Call, LongText, Name, quoted
from flserver.wire.pickles import read, read_message
from tests.examples import times
from tests.fuzz.watch import watched
from tests.wire.pickle_opcodes import (
    assert_one_short_line,
    attempt,
    call,
    file,
    instance,
    mapping,
    message,
    model_of,
    module,
    name,
    pickled,
    refused,
    storage,
    tensor,
    text,
)


def doubled(depth):
    """A tuple of two of a tuple of two ...: 2**depth paths, which a hash or a comparison would walk."""
    levels = (b"h%ch%c\x86q%c0" % (level, level, level + 1) for level in range(depth))
    return b")q\x000" + b"".join(levels) + b"h%c" % depth  # alone on the stack: it is what comes next that takes it


# --- code ------------------------------------------------------------------------------------------------------------

COMMANDS = [
    ("os", "system"),
    ("posix", "system"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "__import__"),
    ("subprocess", "Popen"),
    ("torch._utils", "torch.os.system"),
    ("importlib", "import_module"),
    ("a_module_that_is_not_there", "f"),
]


def wrappings(marker):
    """A command in every place where an unpickler would run it."""
    command = text(f"touch {marker}")
    for module_name, qualname in COMMANDS:
        function = name(module_name, qualname)
        yield call(module_name, qualname, command)
        yield b"\x8c" + bytes([len(module_name)]) + module_name.encode() + text(qualname) + b"\x93" + command + b"\x85R"
        yield function + command + b"\x85\x81"
        yield function + command + b"\x85}\x92"
        yield instance(call(module_name, qualname, command))
        yield instance(mapping(__setstate__=function, __reduce__=function, __class__=function))
        yield function + mapping(__setstate__=function) + b"b"
        yield b"(" + command + f"i{module_name}\n{qualname}\n".encode()
        yield b"(" + function + command + b"o"


def test_no_command_runs_wherever_it_stands(tmp_path):
    marker = tmp_path / "ran"
    for wrapping in wrappings(marker):
        for body in (
            pickled(wrapping),
            message(wrapping),
            pickled(mapping(header=wrapping)),
            pickled(b"}" + wrapping + b"Ns"),
        ):
            attempt(body)
        refused(message(wrapping), "", model_of)
        refused(message(module({"w": wrapping})), "", model_of)
        refused(message(module(modules={"child": wrapping})), "", model_of)
        refused(message(module({"w": tensor(wrapping)})), "", model_of)
        refused(message(module({"w": tensor(storage(file(what=wrapping)))})), "", model_of)
        refused(message(module({"w": tensor(storage(pickled(wrapping)))})), "", model_of)
        attempt(message(module({"w": tensor()}, odd=wrapping)), model_of)
    assert not marker.exists()


def test_a_command_in_an_odd_attribute_is_ignored_and_anywhere_else_refused():
    command = call("os", "system", text("true"))
    assert list(model_of(message(module({"w": tensor()}, odd=command))).tensors) == ["w"]
    tree = read(pickled(command))
    assert isinstance(tree, Call)
    assert (tree.function, tree.arguments) == (Name("os", "system"), ("true",))
    refused(pickled(command), "a call of os.system is not a message", read_message)
    refused(message(command), "a call of os.system is not a module", model_of)
    refused(message(module({"w": command})), "w: a tensor made by os.system is not read", model_of)
    refused(message(module(modules={"c": command})), "c: a call of os.system is not a module", model_of)


def test_a_storage_inside_a_storage_is_refused():
    command = call("os", "system", text("true"))
    inner = storage(file(what=command))
    twice = storage(file(what=storage(file(what=inner))))
    for source in (inner, twice):
        refused(message(module({"w": tensor(source)})), "instead of a storage", model_of)


def test_a_real_pickle_that_names_a_command_is_refused():
    class Bad:
        def __reduce__(self):
            return (os.system, ("true",))

    for protocol in range(2, 6):
        body = pickle.dumps({"header": "<MODEL>", "model": Bad()}, protocol=protocol)
        refused(body, "a call of", model_of)


UNREAD = [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00", b"Pid\n", b"N2", b"\x97", b"\x98", b"I1\n", b"L1L\n"]
UNREAD += [
    b"F1.0\n",
    b"S'a'\n",
    b"Va\n",
    b"Ng0\n",
    b"Np0\n",
    b"U\x01a",
    b"T\x01\x00\x00\x00a",
    b"(l",
    b"(d",
    b"\x80\x04N",
]


@pytest.mark.parametrize("opcodes", UNREAD)
def test_opcodes_that_c_pickle_does_not_write_are_refused(opcodes):
    refused(pickled(opcodes), "is not read")


@pytest.mark.parametrize("parts", [b")" + text("a"), text("a") + b")", doubled(60) + text("a")])
def test_a_name_is_text(parts):
    refused(pickled(parts + b"\x93"), "a name that is not text")


def test_a_persistent_id_stands_only_in_a_storage_s_file():
    refused(pickled(b"NQ"), "persistent id")


# --- time and memory -------------------------------------------------------------------------------------------------


BOMBS = {
    "tuples as a key": b"}" + doubled(60) + b"Ns",
    "tuples as a set's item": b"\x8f(" + doubled(60) + b"\x90",
    "tuples in a frozenset": b"(" + doubled(60) + b"\x91",
    "tuples as a set's argument": name("builtins", "set") + b"](" + doubled(60) + b"e\x85R",
    "laughs": b"]q\x00" + b"".join(b"](" + b"h%c" % i * 10 + b"eq%c" % (i + 1) for i in range(100)),
    "deep tuples": b")" + b"\x85" * 240_000,
    "deep lists": b"]" * 100_000 + b"a" * 99_999,
    "deep dicts": b"}" + (text("") + b"}") * 100_000 + b"s" * 100_000,
    "deep calls": name("a", "b") * 50_000 + b"N" + b"\x85R" * 50_000,
    "deep instances": (name("a", "b") + b")\x81") * 50_000 + b"N" + b"b" * 50_000,
    "memo index": b"Nr\x00\x00\x00\x20",
    "many lists": b"]" * 300_000,
    "many dicts": b"}" * 300_000,
    "many marks": b"(" * 300_000,
    "many gets": b"Nq\x00" + b"h\x00" * 300_000,
    "many memo entries": b"N" + b"\x94" * 300_000,
    "many ints": b"K\x00" * 300_000,
    "many instances": b"c\n\n" + b")\x81" * 300_000,
    "many appends": b"](" + b"N" * 240_000 + b"e",
    "long claims": b"\x8e" + struct.pack("<Q", 2**60),
    "long text claims": b"\x8d" + struct.pack("<Q", 2**60),
    "long array claims": b"\x96" + struct.pack("<Q", 2**63),
    "long integer claims": b"\x8b" + struct.pack("<I", 2**31),
    "long integer": b"\x8b" + struct.pack("<I", 100_000) + b"\x01" * 100_000,
    "long frame": b"\x95" + struct.pack("<Q", 2**64 - 1) + b"N",
    "long name": b"c" + b"a" * 2_000_000 + b"\nb\n",
    "a name without an end": b"cos",
    "long text": text("é" * 2_000_000),
}


@functools.cache
def tried(bomb):
    """What it comes to alone. That is looked at under a watch, which takes seconds."""
    return attempt(pickled(BOMBS[bomb]))


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_does_not_go_off(bomb):
    tried(bomb)
    attempt(message(module({"w": BOMBS[bomb]})), model_of)


@pytest.mark.parametrize("bomb", ["many lists", "many marks", "many gets", "many memo entries", "many ints"])
def test_too_many_of_anything_is_refused(bomb):
    assert isinstance(tried(bomb), PickleRefused)


@pytest.mark.parametrize(
    ("bomb", "reason"),
    [
        ("long claims", "1152921504606846976 bytes are claimed where 1 are left"),
        ("long text claims", "1152921504606846976 bytes are claimed where 1 are left"),
        ("long array claims", "9223372036854775808 bytes are claimed where 1 are left"),
        ("long integer claims", "an integer of 2147483648 bytes"),
        ("long integer", "an integer of 100000 bytes"),
        ("long frame", "a frame is longer than the pickle"),
        ("long name", "a name without an end"),
        ("a name without an end", "a name without an end"),
    ],
)
def test_a_claim_of_a_size_is_refused(bomb, reason):
    refused(pickled(BOMBS[bomb]), reason)


def test_long_text_is_not_decoded():
    tree = read(pickled(BOMBS["long text"]))
    assert isinstance(tree, LongText)
    assert len(tree.utf8) == 4_000_000
    assert read(pickled(text("a" * 65_536))) == "a" * 65_536


def test_a_memo_index_costs_nothing_by_its_size():
    assert read(pickled(BOMBS["memo index"])) is None


def test_only_text_keys_are_kept():
    assert read(pickled(b"}(" + doubled(60) + b"N" + text("kept") + b"K\x01K\x05N)NNNu")) == {"kept": 1}


def test_reading_is_fast():
    """One refusal without the tracer, on the most expensive kind of opcodes."""
    found = watched(read, pickled(BOMBS["many lists"]), memory=False)
    assert isinstance(found.raised, PickleRefused)
    assert found.seconds < 2.0, "of the processor"


# --- cycles ----------------------------------------------------------------------------------------------------------

CIRCLES = {
    "a list in itself": b"]q\x00h\x00a",
    "a list in itself, marked": b"]q\x00(h\x00e",
    "a dict in itself": b"}q\x00" + text("a") + b"h\x00s",
    "a list through a tuple": b"]q\x00h\x00\x85a",
    "a set in itself": b"\x8fq\x00(h\x00\x90",
    "a set's argument": name("builtins", "set") + b"]q\x00\x85Rq\x01h\x00a",
    "a set of a tuple that is called with twice": (
        name("builtins", "set") + b"]\x85q\x00R" + name("builtins", "set") + b"h\x00Ra"
    ),
    "a dict in a list in it": b"}q\x00" + text("a") + b"](h\x00es",
    "a dict given away before": b"]q\x00}q\x01h\x01h\x00a",
}


@pytest.mark.parametrize("circle", CIRCLES)
def test_no_container_holds_itself(circle):
    error = attempt(pickled(CIRCLES[circle]))
    assert isinstance(error, PickleRefused)


def test_a_memo_index_cannot_be_used_again_to_hide_a_circle():
    refused(pickled(b"]q\x00]q\x00"), "used twice")


def test_a_module_inside_itself_is_refused():
    head = name("m", "M") + b")\x81q\x05"
    state = mapping(_parameters=b"}", _buffers=b"}", _modules=mapping(me=b"h\x05"))
    refused(message(head + state + b"b"), "me: a reference to an object that it is part of", model_of)


def test_a_state_is_given_once():
    refused(pickled(instance(mapping()) + b"}b"), "a state twice")


# --- whatever bytes --------------------------------------------------------------------------------------------------


@functools.cache
def real_pickles():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    net.register_buffer("narrow", torch.ones(2).half())
    return [pickle.dumps({"header": "<MODEL>", "id": 3, "model": net}, protocol=number) for number in range(2, 6)]


def read_all(body):
    try:
        found = model_of(body)
    except PickleRefused as error:
        assert_one_short_line(str(error))
        return
    for view in found.tensors.values():
        assert view.storage.nbytes <= 2 * len(body)


SOURCES = st.sampled_from(real_pickles())


@times(5)
@given(st.binary(max_size=400), st.integers(2, 5))
def test_random_bytes_are_read_or_refused(raw_bytes, protocol):
    read_all(raw_bytes)
    read_all(bytes([0x80, protocol]) + raw_bytes)


OPCODES = [bytes([code]) for code in b"N()]}aesuRbt\x81\x92\x85\x86\x87\x94\x8f\x90\x91\x9301"]
OPCODES += [b"h\x00", b"h\x01", b"q\x05", b"ca\nb\n", b"\x8c\x01a", b"K\x01", b"C\x01a"]


@times(5)
@given(st.lists(st.sampled_from(OPCODES)))
def test_any_opcodes_are_read_or_refused(opcodes):
    with contextlib.suppress(PickleRefused):
        read(pickled(*opcodes))


@times(5)
@given(SOURCES, st.data())
def test_flipped_and_cut_pickles_are_read_or_refused(body, data):
    changed = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    read_all(bytes(changed))
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(PickleRefused):
        read(body[:cut])


def test_every_cut_and_every_opcode_at_every_place_is_read_or_refused():
    body = real_pickles()[2]
    for place in range(0, len(body), 7):
        for value in (0, 0x28, 0x2E, 0x52, 0x61, 0x62, 0x65, 0x75, 0x85, 0x94, 0xFF):
            read_all(body[:place] + bytes([value]) + body[place + 1 :])


def test_bytes_after_the_pickle_are_refused():
    refused(pickled(b"N") + b"N", "1 bytes follow the pickle")


@pytest.mark.parametrize("body", [b"", b"\x80", b"\x80\x02", b"\x80\x01N.", b"\x80\x06N.", b"{}", b"N.", b"\x80\x02."])
def test_what_is_no_pickle_is_refused(body):
    assert isinstance(attempt(body), PickleRefused)


def test_refusals_quote_little_and_only_printable_ascii():
    assert quoted("a\n\x00\x1b[31mé" + "x" * 1000) == r"a\n\x00\x1b[31m\xe9" + "x" * 38 + "..."
    assert quoted("fc1.weight") == "fc1.weight"
    assert len(quoted("\U0001f600" * 1000)) == 60
    nasty = name("\x1b[31m" * 20, "é" * 100)
    refused(message(module({"\x1b\n" * 40: nasty})), r"\x1b\n", model_of)
