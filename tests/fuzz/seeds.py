"""Where a fuzzer starts: messages as trainers and servers write them, and the words that they are made of."""

import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from flserver.wire.messages import FINISHED_BODY, STOPPED_BODY, Error, Success, encode_json, encode_metadata
from tests.fuzz.mutations import OPCODES, opcode
from tests.wire.pickle_opcodes import call, file, mapping, message, module, pickled, storage, tensor, text

FIXTURES = Path(__file__).parent.parent / "fixtures" / "pickles"
PROTOCOLS = (2, 3, 4, 5)

NAMES = (
    *("torch", "torch._utils", "torch.storage", "torch._tensor", "torch.nn.parameter", "collections", "_codecs"),
    *("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state"),
    *("_rebuild_from_type_v2", "_load_from_bytes", "FloatStorage", "LongStorage", "UntypedStorage", "Tensor"),
    *("Parameter", "Buffer", "OrderedDict", "encode", "builtins", "set", "frozenset", "os", "system", "eval"),
    *("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "little_endian", "storage", "cpu"),
    *("header", "model", "id", "metrics", "received", "trained", "<MODEL>", "<FINISHED>", "<METADATA>", "data_size"),
)


def models() -> Iterator[tuple[str, nn.Module]]:
    """Small modules: shared, hidden, empty and strided tensors, several dtypes, attributes that tell nothing."""
    yield "linear", nn.Linear(2, 1)
    tied = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2), nn.Linear(2, 2, bias=False))
    tied[2].weight = tied[0].weight
    yield "tied", tied
    buffers = nn.Module()
    buffers.register_buffer("kept", torch.arange(6, dtype=torch.int16).reshape(2, 3).t())
    buffers.register_buffer("hidden", torch.ones(1).half(), persistent=False)
    buffers.register_buffer("empty", torch.empty(0, 3, dtype=torch.bool))
    buffers.register_buffer("none", None)
    yield "buffers", buffers
    odd = nn.Linear(1, 1).double()
    odd.weight.note = "an attribute"  # type: ignore[attr-defined]
    odd.things = [{1, 2}, frozenset({"a"}), 2**80, -1, 1e300, b"raw", bytearray(b"raw"), {3: "x"}, (1, 2, 3, 4)]  # type: ignore[assignment]
    odd.register_buffer("stepped", torch.arange(8)[1:7:2])
    odd.stepped.note = "another"  # type: ignore[union-attr]
    yield "odd", odd


def lattice(levels: int, children: int, name: str = "c") -> bytes:
    """Opcodes of a module in which each level holds the one below ``children`` times."""
    level = module({"w": tensor()}, {}, {"b": tensor()})
    for number in range(levels):
        kept = number.to_bytes(4, "little")
        level = level + b"r" + kept + b"0" + module({}, {f"{name}{child}": b"j" + kept for child in range(children)})
    return level


def seeds() -> Iterator[tuple[str, bytes]]:
    """Names and bodies."""
    for name, net in models():
        for protocol in PROTOCOLS:
            yield f"told-{name}-{protocol}", _pickled({"header": "<MODEL>", "model": net}, protocol)
        said = {"header": "<MODEL>", "id": "ward-7", "model": net, "metrics": {"loss": {"received": 2.5, "trained": 1}}}
        yield f"update-{name}", _pickled(said, 4)
    for path in sorted(FIXTURES.glob("*.pkl")):
        yield f"fixture-{path.stem}", path.read_bytes()
    for kind in ("DoubleStorage", "BFloat16Storage", "CharStorage", "UntypedStorage"):
        width = {"DoubleStorage": 8, "BFloat16Storage": 2}.get(kind, 1)
        held = storage(file(elements=4, data=bytes(4 * width), kind=kind))
        yield f"legacy-{kind}", message(module({"w": tensor(held)}))
    wrapped = call("torch._utils", "_rebuild_parameter_with_state", tensor(), b"\x88", b"N", b"}")
    child = module(buffers={"b": tensor(shape=(), stride=())})
    yield "legacy-parameter", message(module({"w": wrapped}, {"child": child}))
    yield "lattice", message(lattice(3, 2))
    yield "finished", FINISHED_BODY
    yield "stopped", STOPPED_BODY
    yield "nothing", pickled(mapping(header=text("<MODEL>")))
    yield "success", encode_json(Success(msg="welcome", run="night"))
    yield "error", encode_json(Error(msg="é is not admitted"))
    yield "metadata", encode_metadata("3", 1400, {"host": "ward-7", "deep": {"list": [1, 2.5, None, True]}})
    yield "odd-metadata", json.dumps({"header": "<METADATA>", "id": "\ud800", "data_size": 1e3, "info": [[]]}).encode()


def _pickled(message: dict[str, object], protocol: int) -> bytes:
    """The same in every process: torch names a storage by its address, and fills a weight by chance."""
    net = message["model"]
    assert isinstance(net, nn.Module)
    with torch.no_grad():
        for weight in net.parameters():
            weight.fill_(0.5)
    return re.sub(rb"\d{12,}", lambda address: b"7" * len(address[0]), pickle.dumps(message, protocol=protocol))


def dictionary() -> list[bytes]:
    """Words for a fuzzer to put in: every opcode with a small argument, and the names that mean something."""
    words = {name.encode() for name in NAMES}
    words |= {opcode(code, b"a", 1) for code in OPCODES} | {bytes([code]) for code in OPCODES}
    words |= {opcode(0x8C, name.encode(), 0) for name in NAMES} | {text(name) for name in NAMES}
    words |= {b"\x80%c" % protocol for protocol in PROTOCOLS}
    return sorted(words)
