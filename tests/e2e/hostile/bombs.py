"""Resource bombs: few bytes that ask for much memory, much time or a deep stack."""

import struct
from collections.abc import Iterator

from tests.e2e.hostile.inputs import UNREGISTERED, Input, framed, pickled, upload, with_attribute
from tests.wire.pickle_opcodes import (
    call,
    file,
    integer,
    mapping,
    module,
    name,
    raw,
    storage,
    tensor,
    text,
)

TOO_MANY = "the pickle has too many opcodes"
TOO_MANY_KEPT = "the pickle has too many memo entries"
TOO_DEEP = "nests too deeply"
CLAIMED = "bytes are claimed where|an integer of .* bytes"
LOAD = name("torch.storage", "_load_from_bytes")


def pairs(depth: int) -> bytes:
    """A tuple of twice a tuple of twice a tuple ...: 2**depth steps for whoever hashes, compares or prints it."""
    levels = (b"h%ch%c\x86q%c0" % (level, level, level + 1) for level in range(depth))
    return b")q\x000" + b"".join(levels) + b"h%c" % depth


def laughs(levels: int, unit: bytes) -> bytes:
    """A list of ten times a list of ten times ... ``unit``."""
    lines = (b"](" + b"h%c" % level * 10 + b"eq%c0" % (level + 1) for level in range(levels))
    return unit + b"q\x000" + b"".join(lines) + b"h%c" % levels


# name: (opcodes that leave a value or never end, reason). They stand in an attribute of a right model.
VALUES = {
    "nested tuples as a key": (b"}" + pairs(60) + b"Ns", UNREGISTERED),
    "nested tuples as keys": (b"}(" + pairs(60) + b"Nh\x3cNh\x3bNu", UNREGISTERED),
    "nested tuples in a set": (b"\x8f(" + pairs(60) + b"\x90", UNREGISTERED),
    "nested tuples in a frozenset": (b"(" + pairs(60) + b"\x91", UNREGISTERED),
    "nested tuples as a set's argument": (name("builtins", "set") + b"](" + pairs(60) + b"e\x85R", UNREGISTERED),
    "nested tuples as a name": (text("os") + pairs(60) + b"\x93", "a name that is not text"),
    "a billion laughs of lists": (laughs(100, b"]"), UNREGISTERED),
    "a billion laughs of texts": (laughs(9, text("ha" * 1000)), UNREGISTERED),
    "a billion laughs of sets": (laughs(9, name("builtins", "frozenset") + b"]\x85R"), UNREGISTERED),
    "a list in itself": (b"]q\x00h\x00a", "grows after something referred to it"),
    "a dict in itself": (b"}q\x00" + text("a") + b"h\x00s", "grows after something referred to it"),
    "an object in itself": (name("a", "b") + b")\x81q\x00}(" + text("me") + b"h\x00ub", UNREGISTERED),
    "deep tuples": (b")" + b"\x85" * 240_000, TOO_DEEP),
    "deep lists": (b"]" * 100_000 + b"a" * 99_999, TOO_DEEP),
    "deep dicts": (b"}" + (text("") + b"}") * 40_000 + b"s" * 40_000, TOO_DEEP),
    "deep calls": (name("a", "b") * 40_000 + b"N" + b"\x85R" * 40_000, TOO_DEEP),
    "deep objects": ((name("", "") + b")\x81") * 40_000 + b"}" + b"b" * 40_000, TOO_DEEP),
    "900 tuples inside each other, 200 times": (b"](" + (b")" + b"\x85" * 900) * 200 + b"e", UNREGISTERED),
    "deep marks": (b"(" * 300_000, TOO_DEEP),
    "a thousand marks, closed": (b"(" * 900 + b"t" * 900, UNREGISTERED),
    "a memo index of 2**29": (b"Nr\x00\x00\x00\x20", UNREGISTERED),
    "a memo index of 2**32 - 1": (b"Nr\xff\xff\xff\xff", UNREGISTERED),
    "a memo index of 2**32 - 1 that holds nothing": (b"j\xff\xff\xff\xff", "holds nothing"),
    "a memo index twice": (b"]q\x00]q\x00", "used twice"),
    "240,000 lists in one": (b"](" + b"]" * 240_000 + b"e", UNREGISTERED),
    "240,000 dicts in one": (b"](" + b"}" * 240_000 + b"e", UNREGISTERED),
    "100,000 objects": (b"](" + b"c\n\n)\x81" * 55_000 + b"e", UNREGISTERED),
    "120,000 memo entries": (b"N" + b"\x94" * 120_000, UNREGISTERED),
    "240,000 memo entries": (b"N" + b"\x94" * 240_000, TOO_MANY_KEPT),
    "50,000 keys": (b"}(" + b"".join(b"\x8c\x04%04xN" % i for i in range(50_000)) + b"u", UNREGISTERED),
    "300,000 lists": (b"]" * 300_000, TOO_MANY),
    "300,000 dicts": (b"}" * 300_000, TOO_MANY),
    "300,000 nones": (b"N" * 300_000, TOO_MANY),
    "300,000 memo entries": (b"N" + b"\x94" * 300_000, TOO_MANY_KEPT),
    "900,000 nones in a long body": (b"](" + b"N" * 900_000 + b"e", TOO_MANY),
    "400 times the same payload in a long body": (b"](" + (raw(b"p" * 2000) + b"\x94") * 400 + b"e", UNREGISTERED),
    "400 payloads in a long body": (
        b"](" + b"".join(raw(b"%d" % i * 700) + b"\x94" for i in range(400)) + b"e", UNREGISTERED),
    "payloads of a long body that refer to each other": (
        b"](" + b"".join(raw(b"p" * 3000) + b"\x94h%c" % i for i in range(250)) + b"e", UNREGISTERED),
    "120,000 gets": (b"](Nq\x00" + b"h\x00" * 120_000 + b"e", UNREGISTERED),
    "BINUNICODE of 4 GiB": (b"X\xff\xff\xff\xff", CLAIMED),
    "BINUNICODE8 of 2**60": (b"\x8d" + struct.pack("<Q", 2**60), CLAIMED),
    "BINUNICODE8 of 2**64 - 1": (b"\x8d" + struct.pack("<Q", 2**64 - 1), CLAIMED),
    "BINBYTES of 4 GiB": (b"B\xff\xff\xff\xff", CLAIMED),
    "BINBYTES8 of 2**60": (b"\x8e" + struct.pack("<Q", 2**60), CLAIMED),
    "BYTEARRAY8 of 2**40": (b"\x96" + struct.pack("<Q", 2**40), CLAIMED),
    "BYTEARRAY8 of 2**63": (b"\x96" + struct.pack("<Q", 2**63), CLAIMED),
    "LONG4 of 2 GiB": (b"\x8b" + struct.pack("<I", 2**31), CLAIMED),
    "LONG4 of -1": (b"\x8b\xff\xff\xff\xff", CLAIMED),
    "LONG4 of 300,000 bytes": (b"\x8b" + struct.pack("<I", 300_000) + b"\x01" * 300_000, CLAIMED),
    "LONG in 300,000 digits": (b"L" + b"9" * 300_000 + b"L\n", "is not read"),
    "INT in 300,000 digits": (b"I" + b"9" * 300_000 + b"\n", "is not read"),
    "a frame of 2**64 - 1": (b"\x95" + struct.pack("<Q", 2**64 - 1) + b"N", "a frame is longer than the pickle"),
    "a frame of 2**40": (b"\x95" + struct.pack("<Q", 2**40) + b"N", "a frame is longer than the pickle"),
    "50,000 frames": (b"N" + (b"\x95" + bytes(8)) * 30_000, UNREGISTERED),
    "a name of 300,000 characters": (b"c" + b"a" * 300_000 + b"\nb\n", "a name without an end"),
    "a text of 300,000 bytes": (text("é" * 150_000), UNREGISTERED),
}  # fmt: skip

# name: (a model, reason)
MODELS = {
    "a storage of 2**62 elements": (module({"w": tensor(storage(file(elements=2**62, data=b"")))}), CLAIMED),
    "a storage of 2**31 elements": (module({"w": tensor(storage(file(elements=2**31, data=b"")))}), CLAIMED),
    "a storage of -1 elements": (module({"w": tensor(storage(file(elements=-1, data=b"")))}), "number of elements"),
    "a storage that says two sizes": (module({"w": tensor(storage(file(claimed=2**40)))}), "number of elements"),
    "a storage with more than its elements": (module({"w": tensor(storage(file(data=bytes(4000))))}), "goes on"),
    "a view of 2**62 elements of one": (module({"w": tensor(shape=(2**62,), stride=(0,))}), "a view of"),
    "a view of 2**20 elements of four": (module({"w": tensor(shape=(2**10, 2**10), stride=(0, 0))}), "a view of"),
    "a view of 64 dimensions of 2**62": (module({"w": tensor(shape=(2**62,) * 64, stride=(0,) * 64)}), "a view of"),
    "an empty view of 2**124 elements": (
        module({"w": tensor(shape=(0, 2**62, 2**62), stride=(0, 0, 0))}), "a view of"),
    "a view whose rows overlap": (module({"w": tensor(shape=(3, 3), stride=(1, 1))}), "a view of|has not registered"),
    "a view with strides of 2**62": (module({"w": tensor(shape=(2, 2), stride=(2**62, 2**62))}), "a view of"),
    "a view of 65 dimensions": (module({"w": tensor(shape=(1,) * 65, stride=(1,) * 65)}), "at most 64"),
    "a view of 10,000 dimensions": (module({"w": tensor(shape=(1,) * 10_000, stride=(1,) * 10_000)}), "at most 64"),
    "an offset of 2**70": (module({"w": tensor(offset=2**70)}), "offset"),
    "a size of 255 bytes": (module({"w": tensor(shape=(2**2030,))}), "its shape"),
    "nested tuples as a shape": (
        module({"w": call("torch._utils", "_rebuild_tensor", storage(file()), integer(0), pairs(60), b")")}),
        "its shape"),
    "4,000 names of one tensor": (
        module({"w": tensor() + b"q\x00", **{f"w{i}": b"h\x00" for i in range(4_000)}}), "has too many parts"),
    "modules 500 deep": (module() + b"".join(
        (b"q\x000" if i == 0 else b"r" + struct.pack("<I", 1000 + i) + b"0") + module(
            modules={"c": b"h\x00" if i == 0 else b"j" + struct.pack("<I", 1000 + i)}) for i in range(500)),
        f"nest deeper than|{TOO_DEEP}"),
    "long names 20 deep": (None, "a name of"),
    "two modules of two modules, 100 deep": (None, "too many parts"),
    "one storage by 200 calls": (None, UNREGISTERED),
    "four files of 100,000 opcodes": (
        module({f"w{i}": tensor(storage(file(
            system=mapping(little_endian=b"\x88", odd=b"](" + b"N" * 90_000 + b"e")))) for i in range(4)}),
        TOO_MANY),
    "a text that is no bytes": (
        module({"w": tensor(LOAD + name("_codecs", "encode") + text("Ā" * 100_000) + text("latin1") + b"\x86R\x85R")}),
        "more than bytes"),
}  # fmt: skip


def long_names() -> bytes:
    net = module({"w": tensor()})
    for _ in range(20):
        net = module(modules={"n" * 60: net})
    return net


def lattice() -> bytes:
    net = module({"w": tensor()}) + b"q\x00"
    for level in range(100):
        below = b"h%c" % level
        net += b"0" + module(modules={"a": below, "b": below}) + b"q%c" % (level + 1)
    return net


def storage_of_many() -> bytes:
    payload = file(system=mapping(little_endian=b"\x88", odd=b"](" + b"N" * 100_000 + b"e"))
    first, again = LOAD + raw(payload) + b"q\x00\x85R", LOAD + b"h\x00\x85R"
    return module({f"w{i}": tensor(again if i else first) for i in range(200)})


MADE = {
    "long names 20 deep": long_names,
    "two modules of two modules, 100 deep": lattice,
    "one storage by 200 calls": storage_of_many,
}


def _inputs() -> Iterator[Input]:
    for what, (value, reason) in VALUES.items():
        yield _input(f"{what}, in an attribute", upload(with_attribute(value)), reason)
    for what, (model, reason) in MODELS.items():
        yield _input(what, upload(MADE[what]() if model is None else model), reason)
    good = module({"w": tensor()})
    yield _input("nested tuples as the header", upload(good, header=pairs(60)), "without a header")
    yield _input("nested tuples as the id", upload(good, id=pairs(60)), "a tuple is not a client id")
    yield _input("a billion laughs as the id", upload(good, id=laughs(9, text("ha"))), "a list is not a client id")
    yield _input("a billion laughs as metrics", upload(good, metrics=laughs(9, b"}")), UNREGISTERED)
    huge = integer(2**2000)
    yield _input("an id of 2,000 bits", upload(good, id=huge), "an integer of 2001 bits is not a client id")
    yield _input("a metric of 2,000 bits", upload(good, metrics=mapping(loss=mapping(trained=huge))), UNREGISTERED)
    many = mapping(**{f"m{i}": mapping(trained=b"K\x01") for i in range(5_000)})
    yield _input("5,000 metrics", upload(good, metrics=many), UNREGISTERED)
    yield _input("240,000 values left on the stack", framed(pickled(b"]" * 240_000)), "does not end with one value")
    yield _input("240,000 bytes of nothing", framed(b"\x80\x04" + bytes(240_000)), "is not read")
    yield _input("a thousand STOPs", framed(pickled(b"}") + b"." * 1000), "bytes follow the pickle")


def _input(what: str, wire: bytes, reason: str) -> Input:
    return Input(name=f"bomb: {what}", klass="bomb", wire=wire, reason=reason)


INPUTS: tuple[Input, ...] = tuple(_inputs())
