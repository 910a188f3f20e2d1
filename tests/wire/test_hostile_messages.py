"""Messages whose fields are lattices, deep or odd: refused or ignored at once, whichever field it is.

A lattice holds the level below twice, so that whoever prints, compares or hashes it takes 2**n steps; no deadline
inside one process ends that, so a process of its own does the reading, and the kernel ends it.
"""

import json
import pickle
import subprocess
import sys

import pytest

from flserver.errors import PeerError
from flserver.wire.messages import Error, Success, Update
from flserver.wire.protocol import Conversation, Role, State
from tests.patience import PATIENCE
from tests.wire.pickle_opcodes import assert_one_short_line, call, mapping, module, name, pickled, tensor, text

SECONDS = 10  # of the processor for all of them; they take a tenth
ITEMS = ("header", "id", "model", "metrics", "odd")

READ = """
import resource
import sys
from flserver.errors import PeerError
from flserver.wire.protocol import Conversation, Role

resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]), int(sys.argv[1])))
for line in sys.stdin:
    connection = Conversation(Role.SERVER, json_limit=1 << 20, pickle_limit=1 << 20)
    try:
        print(type(connection.receive(memoryview(bytes.fromhex(line)))).__name__, flush=True)
    except PeerError as error:
        print(type(error).__name__, str(error), flush=True)
"""


def lattice(opening: bytes = b"", closing: bytes = b"\x86", levels: int = 200) -> bytes:
    """Opcodes of a value that holds the level below twice; the memo's indices are above those that others use."""
    opcodes = b"N"
    for level in range(levels):
        index = (1000 + level).to_bytes(4, "little")
        opcodes = opcodes + b"r" + index + b"0" + opening + (b"j" + index) * 2 + closing
    return opcodes


def deep(opening: bytes, closing: bytes, levels: int) -> bytes:
    return opening * levels + b"N" + closing * levels


KEEP, KEPT = b"r\xff\xff\x00\x00", b"j\xff\xff\x00\x00"
NUMBER = b"G" + b"\x7f\xef" + b"\xff" * 6  # the largest double

ODD = {
    "lattice of tuples": lattice(),
    "lattice of lists": lattice(b"](", b"e"),
    "lattice of calls": lattice(name("m", "f"), b"\x86R"),
    "lattice of dicts": lattice(b"}(" + text("received"), b"0" + text("trained") + b"Nu"),
    "tuples": deep(b"", b"\x85", 900),
    "lists": deep(b"](", b"e", 900),
    "dicts": deep(b"}(" + text("received"), b"u", 900),
    "calls": deep(name("m", "f"), b"\x85R", 450),
    "states": deep(name("m", "f") + b")\x81", b"b", 900),
    "call": call("os", "system", text("true")),
    "name": name("os", "system"),
    "long name": text("m" * 65_000) + text("f" * 65_000) + b"\x93",
    "lattice for a class": lattice() + b")\x81",
    "integer": b"\x8a\xff" + b"\x7f" * 255,
    "long text": text("x" * 100_000),
    "text": text("x" * 65_000),
    "surrogate": b"X\x03\x00\x00\x00\xed\xa0\x80",
    "bytes": b"B\x03\x00\x00\x00abc",
    "NaN": b"G\x7f\xf8" + bytes(6),
    "True": b"\x88",
    "None": b"N",
}


def bodies() -> dict[str, bytes]:
    """By what it is, bodies of each message with one odd value in each of its places."""
    found = {}
    for kind, odd in ODD.items():
        for item in ITEMS:
            items = {"header": text("<MODEL>"), "id": b"K\x03", "model": module({"w": tensor()})} | {item: odd}
            found[f"{item}: {kind}"] = pickled(mapping(**items))
        usual = {"header": text("<MODEL>"), "id": b"K\x03", "model": module({"w": tensor()})}
        for place, metrics in {
            "metric": mapping(loss=odd),
            "number": mapping(loss=mapping(received=odd + KEEP, trained=KEPT)),
            "both": mapping(loss=mapping(received=odd) + KEEP, again=KEPT),
        }.items():
            found[f"{place}: {kind}"] = pickled(mapping(**usual, metrics=metrics))
        for place, model in {
            "tensor": module({"w": odd}),
            "child": module(modules={"c": odd}),
            "attribute": module({"w": tensor()}, odd=odd),
            "storage": module({"w": tensor(odd)}),
            "wrapped": module({"w": call("torch._utils", "_rebuild_parameter", odd, b"\x88", b"N")}),
            "rebuilt": module({"w": call("torch._utils", "_rebuild_tensor_v2", odd + KEEP, *[KEPT] * 6)}),
            "payload": module({"w": tensor(call("torch.storage", "_load_from_bytes", odd))}),
        }.items():
            found[f"{place}: {kind}"] = pickled(mapping(**usual | {"model": model}))
    usual_json = '{"header": "<METADATA>", "id": 3, "data_size": 5, "info": {}, %s}'
    for kind, odd_json in {
        "lists": "[" * 900 + "]" * 900,
        "objects": '{"a":' * 900 + "1" + "}" * 900,
        "too deep": "[" * 100_000 + "]" * 100_000,
        "integer": "9" * 4300,
        "long integer": "9" * 100_000,
        "number": "1e999",
        "text": '"' + "x" * 500_000 + '"',
        "surrogate": '"\\ud800"',
    }.items():
        for item in ("header", "id", "data_size", "info", "odd"):
            found[f"JSON {item}: {kind}"] = (usual_json % f'"{item}": {odd_json}').encode()
    return found


def test_odd_values_anywhere_are_refused_or_ignored_at_once() -> None:
    cases = bodies()
    lines = "".join(body.hex() + "\n" for body in cases.values())
    read = subprocess.run(
        [sys.executable, "-c", READ, str(SECONDS)], input=lines, capture_output=True, text=True, timeout=PATIENCE
    )
    answers = read.stdout.splitlines()
    assert (read.returncode, read.stderr, len(answers)) == (0, "", len(cases)), list(cases)[len(answers) :][:1]
    taken = ("metrics", "metric", "number", "both", "attribute", "odd", "JSON info", "JSON odd")
    for case, answer in zip(cases, answers, strict=True):
        outcome, _, reason = answer.partition(" ")
        place, _, kind = case.partition(": ")
        assert outcome in ("Metadata", "Update", "MessageRefused", "PickleRefused"), case
        if reason:
            assert_one_short_line(reason)
        if place in ("header", "id", "model"):
            assert outcome in ("MessageRefused", "PickleRefused"), case
        if place in taken and kind not in ("too deep", "long integer"):
            assert outcome in ("Metadata", "Update"), (case, reason)


def server() -> Conversation:
    return Conversation(Role.SERVER, json_limit=1 << 20, pickle_limit=1 << 20)


def test_a_reason_tells_the_kind_of_a_value_and_never_what_is_in_it() -> None:
    for odd, kind in ((lattice(), "a tuple"), (deep(b"", b"\x85", 900), "a tuple"), (ODD["call"], "an object")):
        body = pickled(mapping(header=text("<MODEL>"), id=odd, model=b"N"))
        with pytest.raises(PeerError, match=f"^{kind} is not a client id"):
            server().receive(memoryview(body))


def test_what_a_lattice_is_next_to_is_still_read() -> None:
    metrics = mapping(odd=lattice(), loss=mapping(received=b"K\x02", trained=NUMBER))
    body = pickled(mapping(header=text("<MODEL>"), id=b"K\x03", model=module({"w": tensor()}), metrics=metrics))
    update = server().receive(memoryview(body))
    assert isinstance(update, Update)
    found = [(m.name, m.measured_on, m.value) for m in update.metrics]
    assert found == [("loss", "received", 2.0), ("loss", "trained", sys.float_info.max)]


def test_a_header_goes_on_record_short_and_printable() -> None:
    """As it came, a lone surrogate would not go into SQL."""
    for header in ("\ud800", "x" * 100_000, "a\nb\0"):
        for body in (json.dumps({"header": header}).encode(), pickle.dumps({"header": header[:60_000]})):
            with pytest.raises(PeerError) as refused:
                server().receive(memoryview(body))
            recorded = refused.value.header  # type: ignore[attr-defined]
            assert recorded.isascii()
            assert recorded.isprintable()
            assert len(recorded) <= 64


def test_an_empty_body_is_refused() -> None:
    with pytest.raises(PeerError):
        server().receive(memoryview(b""))


@pytest.mark.parametrize(("kind", "following"), [(Success, State.JOINED), (Error, State.ENDED)])
def test_a_server_that_answers_with_no_text_is_told_in_short(
    kind: type[Success] | type[Error], following: State
) -> None:
    for msg, told in (("[" * 900 + "]" * 900, "a list"), ("9" * 4300, "an integer of 14285 bits"), ('"hi"', "hi")):
        there = Conversation(Role.CLIENT, json_limit=1 << 20, pickle_limit=1 << 20)
        there.send(type(server().receive(memoryview(b'{"header": "<METADATA>", "id": 3, "data_size": 5}'))))
        answer = there.receive(memoryview(f'{{"header": "{kind.header}", "msg": {msg}}}'.encode()))
        assert answer == kind(msg=told)
        assert there.state is following
