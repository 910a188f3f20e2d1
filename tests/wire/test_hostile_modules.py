"""Modules, tensors and storages that lie: each is refused with its name, at once, and nothing multiplies."""

import pytest
import torch

from flserver.wire.pickles import read, read_module
from tests.fuzz.watch import watched
from tests.wire.pickle_opcodes import (
    attempt,
    call,
    file,
    integer,
    mapping,
    message,
    model_of,
    module,
    name,
    pickled,
    raw,
    refused,
    storage,
    stored,
    tensor,
    text,
)


def test_the_opcodes_written_by_hand_are_a_module():
    found = model_of(message(module({"w": tensor()}, {"child": module({"w": tensor(shape=(2, 2), stride=(2, 1))})})))
    assert list(found.tensors) == ["w", "child.w"]


def test_a_lattice_of_shared_modules_does_not_blow_up():
    """Each level holds the level below twice: 2**n names in n modules."""
    opcodes = module({"w": tensor()}) + b"q\x00"
    for level in range(100):
        opcodes = opcodes + b"0" + module(modules={"a": b"h%c" % level, "b": b"h%c" % level}) + b"q%c" % (level + 1)
    refused(pickled(opcodes), "names are too long together", lambda body: read_module(read(body)))


def test_shared_dicts_do_not_multiply():
    """Every module names the same thousand tensors."""
    many = mapping(**{f"w{i}": b"h\x00" for i in range(1000)}) + b"q\x01"
    state = text("_parameters") + b"h\x01" + text("_buffers") + b"}" + text("_modules") + b"}"
    child = name("m", "M") + b")\x81}(" + state + b"ub"
    children = mapping(**{f"c{i}": child for i in range(1000)})
    top = (
        name("m", "M") + b")\x81}(" + text("_parameters") + b"}" + text("_buffers") + b"}" + text("_modules") + children
    )
    body = pickled(tensor() + b"q\x000" + many + b"0" + top + b"ub")
    refused(body, "too many parts", lambda data: read_module(read(data)))


def test_one_call_of_many_arguments_that_many_modules_name_does_not_multiply():
    """A wrapper's call is looked through for the module inside: 100 kB once took seconds, more took minutes."""
    state = text("_parameters") + b"}" + text("_buffers") + b"}" + text("_modules")
    inner = name("m", "M") + b")\x81}(" + state + b"}ub"
    wrapper = name("m", "f") + b"(" + b"N" * 3000 + inner + b"tRq\x01"
    children = mapping(**{f"c{i}": b"h\x01" if i else wrapper for i in range(100)})
    body = pickled(name("m", "M") + b")\x81}(" + state + children + b"ub")
    refused(body, "too many parts", lambda data: read_module(read(data)))


def test_long_names_do_not_add_up():
    net = module({"w": tensor()})
    for _ in range(20):
        net = module(modules={"n" * 60: net})
    refused(message(net), "a name of", model_of)


def test_long_names_do_not_multiply_in_a_lattice():
    """7 KB once made 160,000 names of 490 characters each."""
    tensors = {f"w{i}": b"j\xff\x00\x00\x00" if i else tensor() + b"r\xff\x00\x00\x00" for i in range(400)}
    level = module(tensors)
    for kept in (b"\x00", b"\x01"):
        children = {str(child): b"h" + kept for child in range(20)}
        level = level + b"q" + kept + b"0" + module(modules=children)
    refused(message(module(modules={"n" * 480: level})), "names are too long together", model_of)


@pytest.mark.parametrize("bad", ["", "a.b"])
def test_names_that_torch_does_not_have_are_refused(bad):
    refused(message(module({bad: tensor()})), "torch has no such name", model_of)
    refused(message(module(modules={bad: module()})), "torch has no such name", model_of)


def test_a_name_is_a_parameter_or_a_buffer():
    refused(message(module({"w": tensor()}, buffers={"w": tensor()})), "w: both", model_of)
    refused(message(module({"w": tensor()}, buffers={"w": tensor()}, modules={"w": module()})), "w: both", model_of)


@pytest.mark.parametrize(
    ("geometry", "reason"),
    [
        ({"shape": (5,)}, "a view of (5,) in a storage of 4 elements"),
        ({"shape": (2, 2), "stride": (3, 1)}, "a view of"),
        ({"offset": 1}, "a view of"),
        ({"offset": 5, "shape": (0,)}, "offset"),
        ({"offset": -1}, "offset"),
        ({"offset": 2**70}, "offset"),
        ({"shape": (-4,)}, "its shape"),
        ({"stride": (-1,)}, "its stride"),
        ({"shape": (2**63,)}, "its shape"),
        ({"shape": (2**62,), "stride": (0,)}, "a view of"),
        ({"shape": (5,), "stride": (0,)}, "a view of"),
        ({"shape": (2**62,) * 64, "stride": (0,) * 64}, "a view of"),
        ({"shape": (2**62,) * 64, "stride": (2**62,) * 64}, "a view of"),
        ({"shape": (0, 2**62, 2**62), "stride": (0, 0, 0)}, "a view of"),
        ({"shape": (2**62, 0, 2), "stride": (0, 0, 0)}, "a view of"),
        ({"shape": (0, 2**61), "stride": (0, 0)}, "a view of"),
        ({"shape": (0, 2), "stride": (0, 2**60)}, "a view of"),
        ({"shape": (0,), "stride": (2**62,)}, "a view of"),
        ({"shape": (1, 4), "stride": (2**62, 1)}, "a view of"),
        ({"shape": (1,) * 65, "stride": (1,) * 65}, "64"),
        ({"shape": (4,), "stride": ()}, "1 dimensions with 0 strides"),
    ],
)
def test_a_view_stays_inside_its_storage(geometry, reason):
    refused(message(module({"w": tensor(**geometry)})), reason, model_of)


@pytest.mark.parametrize(
    ("shape", "stride"),
    [((0,), (1,)), ((0, 3), (3, 1)), ((3, 0), (1, 1)), ((1, 4), (10**6, 1)), ((0, 2**60), (0, 0)), ((), ())],
)
def test_torch_makes_every_view_that_is_read(shape, stride):
    view = model_of(message(module({"w": tensor(shape=shape, stride=stride)}))).tensors["w"]
    made = torch.frombuffer(bytearray(view.storage), dtype=torch.float32).as_strided(view.shape, view.stride)
    assert made.shape == shape
    assert made.clone().shape == shape


@pytest.mark.parametrize(
    ("function", "count"),
    [
        ("_rebuild_parameter", 0),
        ("_rebuild_parameter", 4),
        ("_rebuild_parameter_with_state", 3),
        ("_rebuild_tensor_v2", 0),
        ("_rebuild_tensor_v2", 8),
        ("_rebuild_tensor", 3),
    ],
)
def test_torch_s_functions_take_the_arguments_that_torch_gives(function, count):
    bad = call("torch._utils", function, *[tensor()] * count)
    refused(message(module({"w": bad})), function, model_of)


def test_true_is_not_a_size():
    bad = call("torch._utils", "_rebuild_tensor", storage(file()), integer(0), b"\x88\x85", integer(1) + b"\x85")
    refused(message(module({"w": bad})), "its shape", model_of)


def test_only_torch_s_own_function_makes_a_storage():
    source = call("os", "system", raw(file()))
    refused(message(module({"w": tensor(source)})), "w: a call of os.system is not a storage", model_of)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"claimed": 5}, "number of elements"),
        ({"elements": 2**62, "data": b""}, "are left"),
        ({"elements": -1, "data": b""}, "a number of elements"),
        ({"elements": 5, "data": bytes(16)}, "are left"),
        ({"data": bytes(17)}, "goes on"),
        ({"kind": "ComplexFloatStorage"}, "not a kind of storage"),
        ({"kind": "QInt8Storage"}, "not a kind of storage"),
        ({"kind": "system"}, "not a kind of storage"),
        ({"keys": b"]"}, "other storages"),
        ({"keys": b"](X\x01\x00\x00\x00ze"}, "other storages"),
        ({"keys": b"](X\x01\x00\x00\x00kX\x01\x00\x00\x00ke"}, "other storages"),
        ({"system": b"}X\x0d\x00\x00\x00little_endian\x89s"}, "little-endian"),
        ({"system": b"N"}, "little-endian"),
        ({"what": b"N"}, "instead of a storage"),
        ({"what": b"NQ"}, "instead of a storage"),
        ({"what": b"(NNNNNNtQ"}, "something else"),
        ({"what": stored("module", view=b"N")}, "something else"),
        ({"what": stored("storage", view=b"(" + text("k") + b"K\x00K\x04t")}, "something else"),
        ({"protocol": 1000}, "does not start as torch writes it"),
        ({"magic": 1}, "does not start as torch writes it"),
    ],
)
def test_a_storage_is_what_its_file_says(changes, reason):
    refused(message(module({"w": tensor(storage(file(**changes)))})), f"{reason}", model_of)


def test_a_storage_named_by_many_calls_is_read_once():
    """Else 200 calls of one payload with 100,000 opcodes would be 20 million opcodes."""
    payload = file(system=mapping(little_endian=b"\x88", odd=b"](" + b"N" * 100_000 + b"e"))
    first = tensor(name("torch.storage", "_load_from_bytes") + raw(payload) + b"q\x00\x85R")
    again = tensor(name("torch.storage", "_load_from_bytes") + b"h\x00\x85R")
    tensors = {f"w{i}": again if i else first for i in range(200)}
    found = attempt(message(module(tensors)), model_of)
    assert len(found.tensors) == 200
    assert len({id(view.storage) for view in found.tensors.values()}) == 1


def test_text_named_by_many_calls_is_copied_once():
    payload = file(elements=1_000_000).decode("latin-1")
    encode = name("_codecs", "encode")
    first = (
        name("torch.storage", "_load_from_bytes") + encode + text(payload) + b"q\x00" + text("latin1") + b"\x86R\x85R"
    )
    again = name("torch.storage", "_load_from_bytes") + encode + b"h\x00" + text("latin1") + b"\x86R\x85R"
    tensors = {f"w{i}": tensor(again if i else first) for i in range(100)}
    found = attempt(message(module(tensors)), model_of)
    assert len(found.tensors) == 100


def test_text_that_is_not_bytes_is_refused():
    for payload in ("Ā", "Ā" * 100_000):
        encode = name("_codecs", "encode") + text(payload) + text("latin1") + b"\x86R"
        source = name("torch.storage", "_load_from_bytes") + encode + b"\x85R"
        refused(message(module({"w": tensor(source)})), "more than bytes", model_of)


def test_one_character_that_is_no_byte_does_not_make_a_text_four_times_as_long():
    encode = name("_codecs", "encode") + text("a" * 30_000_000 + "\U0001f600") + text("latin1") + b"\x86R"
    source = name("torch.storage", "_load_from_bytes") + encode + b"\x85R"
    body = message(module({"w": tensor(source)}))
    found = watched(model_of, body)
    assert "more than bytes" in str(found.raised)
    assert found.peak < 1.5 * len(body)


def test_text_is_cut_between_any_two_bytes_of_a_character():
    for shift in (0, 1):
        data = bytes(shift) + "é".encode("latin-1") * 40_000 + bytes(40_000 * 4 - 40_000 - shift)
        encode = name("_codecs", "encode") + text(file(elements=40_000, data=data).decode("latin-1"))
        source = name("torch.storage", "_load_from_bytes") + encode + text("latin1") + b"\x86R\x85R"
        found = attempt(message(module({"w": tensor(source)})), model_of)
        assert found.tensors["w"].storage == data
        assert found.tensors["w"].storage.readonly


def test_files_share_one_budget_of_opcodes():
    payload = file(system=mapping(little_endian=b"\x88", odd=b"](" + b"N" * 100_000 + b"e"))
    tensors = {f"w{i}": tensor(storage(payload)) for i in range(4)}
    refused(message(module(tensors)), "w2: the pickle has too many opcodes", model_of)
