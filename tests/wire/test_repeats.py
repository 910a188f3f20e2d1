"""A long pickle that arrives gets shorter by what repeats in it, and stays the same pickle."""

import io
import pickle
import pickletools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flserver.errors import PickleRefused
from flserver.models.state import read_state
from flserver.wire import machine, repeats
from flserver.wire.pickles import read, read_message, read_module
from flserver.wire.repeats import LEAST, Repeats
from tests.examples import times
from tests.wire.pickle_opcodes import pickled

PROTOCOLS = (2, 3, 4, 5)


def by_c(value: object, protocol: int) -> bytes:
    return pickle.dumps(value, protocol)


def by_python(value: object, protocol: int) -> bytes:
    file = io.BytesIO()
    pickle._Pickler(file, protocol).dump(value)
    return file.getvalue()


def arrive(body: bytes, sizes: Iterator[int], least: int = LEAST, opcodes: int = 10**6) -> tuple[bytes, int]:
    """What is left of ``body`` when all of it has come in pieces of ``sizes``, and how much was kept at most."""
    kept, most, taken, looking = bytearray(), 0, 0, Repeats(opcodes, least)
    while taken < len(body):
        piece = body[taken : taken + next(sizes)]
        taken += len(piece)
        kept += piece
        most = max(most, len(kept))
        with memoryview(kept) as view:
            left = looking.drop(view)
        del kept[left:]
    return bytes(kept), most


def pieces_of(*sizes: int) -> Iterator[int]:
    while True:
        yield from sizes


def one_buffer(net: nn.Module) -> nn.Module:
    """Every parameter a view of one buffer, as ``vector_to_parameters`` and an LSTM on a GPU leave them."""
    vector = nn.utils.parameters_to_vector(net.parameters()).detach().clone()
    nn.utils.vector_to_parameters(vector, net.parameters())
    return net


def test_how_long_each_opcode_is_is_known_for_all_that_the_machine_reads() -> None:
    lengths = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT4: 4}
    lengths |= {pickletools.TAKEN_FROM_ARGUMENT4U: 4, pickletools.TAKEN_FROM_ARGUMENT8U: 8}
    ours = {ord(code) for code in machine._ACTIONS} | {machine._PROTO}
    assert ours == set(repeats._FIXED) | set(repeats._COUNTED) | {repeats._GLOBAL}
    for known in pickletools.opcodes:
        code, size = ord(known.code), known.arg.n if known.arg else 0
        if code in repeats._FIXED:
            assert repeats._FIXED[code] == size, known.name
        elif code in repeats._COUNTED:
            assert repeats._COUNTED[code] == lengths[size], known.name


# Each one an object of its own: pickle knows by itself that it has written an object before.
contents = st.sampled_from([b"a" * 30, b"b" * 30, b"a" * 300, b"c" * 3000])
payloads, texts = contents.map(bytearray).map(bytes), contents.map(bytes.decode)
values = st.recursive(
    payloads | texts | payloads.map(bytearray) | st.integers() | st.floats(allow_nan=False) | st.none(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(texts, inner),
    max_leaves=30,
)
sizes_of_pieces = st.lists(st.integers(1, 400), min_size=1)


@times(2)
@given(values, st.sampled_from(PROTOCOLS), st.sampled_from([by_c, by_python]), sizes_of_pieces)
def test_what_is_left_is_a_pickle_of_the_same_value(value, protocol, write, sizes):  # type: ignore[no-untyped-def]
    body = write(value, protocol)
    left, _ = arrive(body, pieces_of(*sizes), least=20)
    assert pickle.loads(left) == value
    assert type(read(left)) is type(read(body))
    assert len(left) <= len(body)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("write", [by_c, by_python])
def test_weights_that_are_views_of_one_buffer_come_down_to_one_model(protocol, write):  # type: ignore[no-untyped-def]
    net = one_buffer(nn.Sequential(nn.LSTM(28, 64, num_layers=2), nn.Linear(64, 10), nn.BatchNorm1d(10)))
    model = sum(tensor.nbytes for tensor in net.state_dict().values()) * (2 if protocol == 2 else 1)
    body = write({"header": "<MODEL>", "id": 3, "model": net}, protocol)
    assert len(body) > 12 * model / 2
    left, most = arrive(body, pieces_of(64 * 1024))
    assert len(left) < 1.1 * model + 20_000
    assert most < 2.1 * model + 64 * 1024 + 20_000
    for name, tensor in read_state(read_module(read_message(left)["model"])).items():
        assert torch.equal(tensor, net.state_dict()[name]), name


def test_two_buffers_in_turn_are_kept_once_each() -> None:
    one, other = b"1" * 5000, b"2" * 5000
    body = pickle.dumps([bytes(bytearray(each)) for each in (one, other) * 10])
    assert len(arrive(body, pieces_of(777))[0]) < 11_000


def test_a_text_is_never_taken_for_the_bytes_that_it_is_written_in() -> None:
    value = ["a" * 5000, b"a" * 5000, bytearray(b"a" * 5000)]
    assert pickle.loads(arrive(pickle.dumps(value, 5), pieces_of(100))[0])[:2] == value[:2]


@pytest.mark.parametrize("put", [b"q\x00", b"q\xff", b"r\x00\x00\x01\x00", b"\x94"])
def test_wherever_in_the_memo_the_first_one_lies_it_is_found(put: bytes) -> None:
    payload = b"B" + (2000).to_bytes(4, "little") + b"x" * 2000
    body = pickled(b"](", b"N\x94" if put == b"\x94" else b"Nq\x07", payload + put, payload, payload, b"e")
    left, _ = arrive(body, pieces_of(50))
    assert len(left) < 2100
    assert read(left) == read(body)


def test_what_is_not_in_the_memo_stays() -> None:
    payload = b"B" + (2000).to_bytes(4, "little") + b"x" * 2000
    body = pickled(b"](", payload * 3, b"e")
    assert arrive(body, pieces_of(50))[0] == body


@pytest.mark.parametrize("rest", [b"", b"\0" * 9000, b"c" + b"x" * 9000, b"cmodule\nname", b"B\xff\xff\xff\xff" + b"x"])
def test_what_the_machine_refuses_is_refused_as_it_was(rest: bytes) -> None:
    body = pickled(b"]")[:-1] + rest
    left, _ = arrive(body, pieces_of(3))
    assert left == body
    reasons = []
    for each in (body, left):
        with pytest.raises(PickleRefused) as caught:
            read(each)
        reasons.append(str(caught.value))
    assert reasons[0] == reasons[1]


def test_no_more_opcodes_are_looked_at_than_the_machine_will_read() -> None:
    payload = b"B" + (2000).to_bytes(4, "little") + b"x" * 2000 + b"\x94"
    body = pickled(b"](", b"N" * 1000, payload, payload, b"e")
    assert len(arrive(body, pieces_of(500), opcodes=500)[0]) == len(body)
    assert len(arrive(body, pieces_of(500), opcodes=5000)[0]) < len(body) - 1900
