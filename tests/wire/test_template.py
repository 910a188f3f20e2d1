"""A template's tensors are overwritten in place, and every unpickler reads what comes out."""

import math
import os
import pickle
import pickletools
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flserver.errors import PickleRefused
from flserver.models.architectures import payload_of
from flserver.wire.pickles import read_message, read_module
from flserver.wire.template import Payload, Template

LOADERS = [pickle.loads, pickle._loads]  # the C one and the pure-Python one, which checks frames


def small():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    net.register_buffer("empty", torch.empty(0))
    return net


def large():
    """Its storages are above 64 KiB, so that C pickle writes them outside frames."""
    net = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 300, bias=False))
    net[1].weight = net[0].weight
    return net


def write(template, net):
    for name, tensor in net.state_dict().items():
        view = template.module.tensors[name]
        if len(view.storage):
            memory = torch.frombuffer(view.storage, dtype=tensor.dtype)
            memory.as_strided(view.shape, view.stride, view.offset).copy_(tensor)


def assert_same(net, other):
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in net.state_dict().items())


def as_written(body):
    return body


def last_frame(body):
    """Where the last FRAME opcode stands, and the end of the bytes it claims."""
    frames = [(at, length) for opcode, length, at in pickletools.genops(body) if opcode.name == "FRAME"]
    return (frames[-1][0], frames[-1][0] + 9 + frames[-1][1]) if frames else None


def with_last_frame_of(length, body):
    frame = last_frame(body)
    return body if frame is None else body[: frame[0] + 1] + length.to_bytes(8, "little") + body[frame[0] + 9 :]


def with_stop_outside_the_frame(body):
    frame = last_frame(body)
    return body if frame is None else with_last_frame_of(frame[1] - frame[0] - 10, body)


def with_all_but_an_opcode_outside_the_frame(body):
    return with_last_frame_of(1, body)


def without_frames(body):
    pieces, start = [], None
    for opcode, _, position in [*pickletools.genops(body), (None, None, len(body))]:
        if start is not None:
            pieces.append(body[start:position])
        start = None if opcode is not None and opcode.name == "FRAME" else position
    return b"".join(pieces)


FRAMINGS = [as_written, with_stop_outside_the_frame, with_all_but_an_opcode_outside_the_frame, without_frames]


@pytest.mark.parametrize("build", [small, large])
@pytest.mark.parametrize("loads", LOADERS)
def test_what_is_written_into_a_template_is_what_pickle_loads(build, loads):
    template = Template.of({"header": "<MODEL>", "model": build()})
    length, other = len(template.buffer), build()
    write(template, other)
    assert len(template.buffer) == length
    message = loads(bytes(template.buffer))
    assert message["header"] == "<MODEL>"
    assert_same(message["model"], other)


class Large:
    """What takes its bytes from a file in a pickle, as torch's storages do."""

    def __init__(self, data):
        self.data = data

    def __reduce__(self):
        return bytes, (self.data,)


def large_payload(value):
    if not isinstance(value, Large):
        return None

    def write(file):
        for at in range(0, len(value.data), 1000):
            assert file.write(memoryview(value.data)[at : at + 1000]) == len(value.data[at : at + 1000])

    return Payload(bytes, len(value.data), write)


@pytest.mark.parametrize("loads", LOADERS)
@pytest.mark.parametrize("size", [0, 1, 255, 256, 70_000, 3_000_000])
def test_payloads_are_written_where_they_belong_and_the_pickle_is_what_it_would_be(loads, size):
    large = [Large(os.urandom(size)) for _ in range(3)]
    message = {"header": "<MODEL>", "model": small(), "extra": [large[0], large[1], large[0]], "last": large[2]}
    template = Template.of(message, large_payload)
    found = loads(bytes(template.buffer))
    assert found["extra"] == [large[0].data, large[1].data, large[0].data]
    assert found["last"] == large[2].data
    assert_same(found["model"], message["model"])


@pytest.mark.parametrize("build", [small, large])
@pytest.mark.parametrize("loads", LOADERS)
def test_torchs_storages_are_payloads(build, loads):
    net = build()
    plain = Template.of({"header": "<MODEL>", "model": net})
    template = Template.of({"header": "<MODEL>", "model": net}, payload_of)
    assert_same(loads(bytes(template.buffer))["model"], net)
    assert list(template.module.tensors) == list(plain.module.tensors)
    assert len(template.buffer) < len(plain.buffer) + 9 * len(template.module.tensors)
    assert template.buffer[:2] == b"\x80\x04"


def test_a_payload_that_is_longer_than_it_said_is_an_error():
    with pytest.raises(ValueError, match="different structures"):
        Template.of({"model": small(), "x": Large(b"")}, lambda value: large_payload(value) and TOO_LONG)


TOO_LONG = Payload(bytes, 10, lambda file: file.write(bytes(1_000_000)))


def test_a_copy_has_a_buffer_of_its_own():
    net, other = small(), small()
    template = Template.of({"header": "<MODEL>", "model": net})
    copy = template.copy()
    write(copy, other)
    assert_same(pickle.loads(template.buffer)["model"], net)
    assert_same(pickle.loads(copy.buffer)["model"], other)


def test_protocol_4_is_written_whatever_python_prefers():
    assert Template.of({"model": small()}).buffer[:2] == b"\x80\x04"


@pytest.mark.parametrize("build", [small, large])
@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("loads", LOADERS)
def test_an_answer_holds_the_new_numbers_and_items(build, protocol, framing, loads):
    body = framing(pickle.dumps({"header": "<MODEL>", "model": build(), "info": 1}, protocol=protocol))
    template, trained = Template(bytearray(body)), build()
    write(template, trained)
    items = {"id": 3, "metrics": {"loss": 0.5, "deep": {"n": -(2**40), "ok": True, "no": False, "none": None, "": "é"}}}
    pieces = template.answer(**items)
    answer = b"".join(pieces)
    if framing is as_written and protocol >= 4:
        assert last_frame(answer)[1] == len(answer)
    message = loads(answer)
    assert_same(message.pop("model"), trained)
    assert message == {"header": "<MODEL>", "info": 1, **items}
    assert read_message(answer)["metrics"] == items["metrics"]
    assert list(read_module(read_message(answer)["model"]).tensors) == list(trained.state_dict())
    assert sum(len(piece) for piece in pieces if not isinstance(piece, memoryview)) < 200  # no tensor was copied


def test_an_answer_names_a_class_that_does_not_exist_here():
    body = pickle.dumps({"header": "<MODEL>", "model": Here(2, 2)}, protocol=4)
    body = body.replace(b"\x8c\x04Here", b"\x8c\x04Gone")
    answer = b"".join(Template(bytearray(body)).answer(id="7"))
    assert b"\x8c\x04Gone" in answer
    assert list(read_module(read_message(answer)["model"]).tensors) == ["weight", "bias"]


class Here(nn.Linear):
    pass


scalars = st.none() | st.booleans() | st.integers(-(2**2000), 2**2000) | st.floats(allow_nan=False) | st.text()
items = st.dictionaries(st.text(), st.recursive(scalars, lambda inner: st.dictionaries(st.text(), inner), max_leaves=8))


@given(items)
def test_any_plain_items_arrive(added):
    answer = b"".join(Template.of({"header": "<MODEL>", "model": nn.Linear(1, 1)}).answer(metrics=added))
    assert (
        pickle.loads(answer)["metrics"] == pickle._loads(answer)["metrics"] == read_message(answer)["metrics"] == added
    )


def test_special_floats_and_lone_surrogates_arrive():
    answer = b"".join(Template.of({"model": small()}).answer(nan=math.nan, minus=-math.inf, text="\ud800"))
    for message in (pickle.loads(answer), read_message(answer)):
        assert math.isnan(message["nan"])
        assert (message["minus"], message["text"]) == (-math.inf, "\ud800")


@pytest.mark.parametrize("value", [[1], (1,), b"raw", {1: 2}, object(), 2**3000])
def test_what_cannot_be_sent_is_our_mistake(value):
    template = Template.of({"model": small()})
    with pytest.raises(TypeError, match="cannot be sent"):
        template.answer(value=value)


def test_protocol_2_cannot_be_overwritten():
    with pytest.raises(PickleRefused, match="protocol 2"):
        Template(bytearray(pickle.dumps({"model": small()}, protocol=2)))


@pytest.mark.parametrize("message", [[1], {"header": "<FINISHED>"}, {"model": 3}])
def test_a_template_needs_a_model(message):
    with pytest.raises(PickleRefused):
        Template.of(message)


def test_a_template_has_no_bytes_after_the_pickle():
    with pytest.raises(PickleRefused, match="1 bytes follow"):
        Template(bytearray(pickle.dumps({"model": small()}) + b"!"))


READER = """
import pickle, sys
import torch
message = pickle.loads(sys.stdin.buffer.read())
net = message["model"]
print(torch.__version__, type(net).__name__, message["id"], net(torch.ones(1, 3)).sum().item())
"""


@pytest.mark.old_torch
def test_torch_1_13_loads_what_is_written():
    net = small().eval()
    body = b"".join(Template.of({"header": "<MODEL>", "model": net}, payload_of).answer(id=3))
    python = os.environ.get("FLSERVER_OLD_TORCH", "/usr/bin/python3")
    assert python != sys.executable
    ran = subprocess.run([python, "-W", "ignore", "-c", READER], input=body, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode()
    version, name, number, total = ran.stdout.decode().split()
    assert version.startswith("1.13")
    assert (name, number) == ("Sequential", "3")
    assert float(total) == pytest.approx(net(torch.ones(1, 3)).sum().item(), abs=1e-5)
