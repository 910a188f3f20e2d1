"""Pickles written opcode by opcode, and the watch over those who read them."""

import pickle
import struct

from flserver.errors import PickleRefused
from flserver.wire.pickles import read, read_message, read_module
from tests.fuzz.watch import one_short_line, watched

SECONDS = 10.0  # of the processor: tracemalloc makes every allocation several times as slow
MEMORY = 30e6  # bytes


def attempt(body, reader=read):
    """What ``reader`` makes of ``body``, a refusal included. It is bounded in time and memory, and acts nowhere."""
    found = watched(reader, body)
    assert found.acts == []
    assert found.seconds < SECONDS
    assert found.peak < MEMORY + 3 * len(body)
    if isinstance(found.raised, PickleRefused):
        assert_one_short_line(str(found.raised))
        return found.raised
    if found.raised is not None:
        raise found.raised
    return found.result


def assert_one_short_line(reason):
    assert one_short_line(reason)
    assert len(reason) < 300


def refused(body, match, reader=read):
    error = attempt(body, reader)
    assert isinstance(error, PickleRefused), error
    assert match in str(error)


def model_of(body):
    return read_module(read_message(body).get("model"))


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def raw(value):
    return b"B" + struct.pack("<I", len(value)) + value


def integer(value):
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def name(module, qualname):
    return f"c{module}\n{qualname}\n".encode()


def call(module, qualname, *arguments):
    return name(module, qualname) + b"(" + b"".join(arguments) + b"tR"


def mapping(**items):
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def instance(state):
    return name("neural_net_helper", "NeuralNet") + b")\x81" + state + b"b"


def module(parameters=None, modules=None, buffers=None, **odd):
    state = {"_parameters": mapping(**parameters or {}), "_buffers": mapping(**buffers or {})}
    return instance(mapping(**odd, **state, _modules=mapping(**modules or {})))


def pickled(*opcodes):
    return b"\x80\x02" + b"".join(opcodes) + b"."


def message(model):
    return pickled(mapping(header=text("<MODEL>"), model=model))


def stored(what="storage", kind="FloatStorage", elements=4, view=b"N"):
    """The persistent id that stands for a storage in its file."""
    return b"(" + text(what) + name("torch", kind) + text("k") + text("cpu") + integer(elements) + view + b"tQ"


def file(
    elements=4,
    data=None,
    kind="FloatStorage",
    keys=b"](X\x01\x00\x00\x00ke",
    claimed=None,
    system=None,
    what=None,
    magic=0x1950A86A20F9469CFC6C,
    protocol=1001,
):
    """The nested file of one storage, with anything in it replaced."""
    return b"".join(
        (
            pickled(integer(magic)),
            pickled(integer(protocol)),
            pickled(system or mapping(little_endian=b"\x88")),
            pickled(what or stored(kind=kind, elements=elements)),
            pickled(keys),
            struct.pack("<q", elements if claimed is None else claimed),
            bytes(4 * elements) if data is None else data,
        )
    )


def storage(payload):
    return call("torch.storage", "_load_from_bytes", raw(payload))


def tensor(source=None, offset=0, shape=(4,), stride=(1,)):
    numbers = [b"(" + b"".join(map(integer, extent)) + b"t" for extent in (shape, stride)]
    hooks = call("collections", "OrderedDict")
    arguments = (storage(file()) if source is None else source, integer(offset), *numbers, b"\x89", hooks)
    return call("torch._utils", "_rebuild_tensor_v2", *arguments)
