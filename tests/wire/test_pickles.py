"""What honest trainers send is read, tensor for tensor as ``state_dict()`` names it."""

import functools
import gc
import importlib.util
import pickle
import weakref
from collections import OrderedDict
from enum import Enum
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from flserver.errors import PickleRefused
from flserver.wire.pickles import PickleLimits, read, read_message, read_module

FIXTURES = Path(__file__).parent.parent / "fixtures"
PROTOCOLS = [2, 3, 4, 5]


def as_tensor(view):
    dtype = getattr(torch, view.dtype)
    if not len(view.storage):
        return torch.empty(0, dtype=dtype).as_strided(view.shape, view.stride)
    return torch.frombuffer(bytearray(view.storage), dtype=dtype).as_strided(view.shape, view.stride, view.offset)


def sent(net, protocol=4):
    body = pickle.dumps({"header": "<MODEL>", "id": 3, "model": net}, protocol=protocol)
    return read_module(read_message(body)["model"])


def assert_same(module, net):
    expected = net.state_dict()
    assert list(module.tensors) == list(expected)
    for name, tensor in expected.items():
        view = module.tensors[name]
        assert getattr(torch, view.dtype) == tensor.dtype, name
        assert (view.shape, view.stride) == (tuple(tensor.shape), tensor.stride()), name
        assert torch.equal(as_tensor(view), tensor), name


def linear():
    return nn.Linear(7, 3)


def convolution():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2), nn.Dropout()))


def tied():
    net = nn.ModuleDict({"embedding": nn.Embedding(11, 5), "out": nn.Linear(5, 11)})
    net["out"].weight = net["embedding"].weight
    return net


def shared_child():
    child = nn.Linear(2, 2)
    return nn.ModuleList([child, nn.Tanh(), child])


def strided():
    net = nn.Module()
    base = torch.arange(60.0).reshape(6, 10)
    net.sliced = nn.Parameter(base[1:4, 2:9:3])
    net.transposed = nn.Parameter(base.t())
    net.row = nn.Parameter(base[5])
    net.register_buffer("channels_last", torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last))
    return net


def every_dtype():
    net = nn.Module()
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        net.register_parameter(f"p_{dtype}".replace("torch.", ""), nn.Parameter(torch.tensor([1.5, -2.25]).to(dtype)))
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool):
        net.register_buffer(f"b_{dtype}".replace("torch.", ""), torch.tensor([0, 1, 100]).to(dtype))
    return net


def odd_shapes():
    net = nn.Module()
    net.scalar = nn.Parameter(torch.tensor(2.5))
    net.register_buffer("empty", torch.empty(0))
    net.register_buffer("no_rows", torch.empty(0, 4))
    net.register_buffer("no_columns", torch.empty(10, 0))
    net.register_buffer("none", None)
    net.register_parameter("absent", None)
    net.register_buffer("end", torch.arange(4.0)[4:])
    net.add_module("gone", None)
    return net


def hidden_buffers():
    net = nn.Module()
    net.register_buffer("kept", torch.ones(2))
    net.register_buffer("hidden", torch.zeros(2), persistent=False)
    net.child = nn.Module()
    net.child.register_buffer("hidden", torch.zeros(3), persistent=False)
    net.child.register_buffer("kept", torch.ones(3))
    net.declared = nn.Buffer(torch.arange(3.0))
    return net


def parameter_with_attributes():
    net = nn.Linear(2, 2)
    net.weight.note = "kept by torch"
    return net


def frozen_containers():
    return nn.ModuleDict({"list": nn.ParameterList([torch.ones(2), torch.zeros(3)]), "bn": nn.BatchNorm1d(3)})


class Colour(Enum):
    RED = 1


class Box:
    def __init__(self, value):
        self.value = value


def a_hook(*_):
    return None


def odd_attributes():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    net.by_number = {1: "one", (2, 3): "pair", None: 0, "x": {4: 5}}
    net.things = [
        {1, 2},
        frozenset({"a"}),
        2**80,
        -(2**70),
        1e300,
        -1,
        70_000,
        b"raw",
        bytearray(b"raw"),
        "é\ud800",
        True,
    ]
    net.of_torch = (torch.Size([2, 3]), torch.device("cpu"), torch.float16, nn.functional.relu)
    net.ordered = OrderedDict(a=1)
    net.saved = net[0].state_dict()  # an OrderedDict with attributes of its own
    net.colour, net.function, net.kind, net.box = Colour.RED, a_hook, Box, Box(Box(None))
    net.partial = functools.partial(a_hook, net, key=1)
    net.outside = [nn.Linear(4, 4), torch.ones(3)]
    net.parent = [net]
    net.long = "x" * 100_000
    net.unread = [torch.ones(2, dtype=torch.complex64), torch.eye(2).to_sparse()]
    net[0].register_forward_hook(a_hook)
    net[1].register_forward_hook(functools.partial(a_hook, net))
    net.register_load_state_dict_pre_hook(a_hook)
    return net


NETS = [
    linear,
    convolution,
    tied,
    shared_child,
    strided,
    every_dtype,
    odd_shapes,
    hidden_buffers,
    parameter_with_attributes,
    frozen_containers,
    odd_attributes,
    functools.partial(nn.LSTM, 4, 5, num_layers=2, bidirectional=True),
    functools.partial(nn.MultiheadAttention, 8, 2),
    functools.partial(nn.TransformerEncoderLayer, 8, 2, 16),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("build", NETS, ids=lambda build: getattr(build, "__name__", None) or build.func.__name__)
def test_a_module_is_read_as_its_state_dict(build, protocol):
    net = build()
    assert_same(sent(net, protocol), net)


def test_resnet18_is_read_as_its_state_dict():
    net = torchvision.models.resnet18()
    assert_same(sent(net), net)


@pytest.mark.parametrize("path", sorted((FIXTURES / "pickles").iterdir()), ids=lambda path: path.stem)
def test_pickles_of_old_and_new_torch_are_read(path):
    spec = importlib.util.spec_from_file_location("make_pickles", FIXTURES / "make_pickles.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    message = read_message(path.read_bytes())
    assert (message["header"], message["id"]) == ("<MODEL>", 3)
    module = read_module(message["model"])
    assert_same(module, made.model())


def test_there_are_fixtures_of_both_torches_in_all_protocols():
    names = {path.name for path in (FIXTURES / "pickles").iterdir()}
    assert names == {f"torch-{torch}-protocol-{number}.pkl" for torch in ("1.13", "2.14") for number in PROTOCOLS}


def test_tied_weights_are_one_view():
    module = sent(tied())
    assert module.tensors["embedding.weight"] is module.tensors["out.weight"]


@pytest.mark.parametrize("location", ["cuda:0", "mps:0"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_device_of_a_storage_does_not_matter(location, protocol, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: location)
    net = linear()
    body = pickle.dumps({"model": net}, protocol=protocol)
    assert location.encode() in body
    assert_same(read_module(read_message(body)["model"]), net)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_no_number_is_copied(protocol):
    body = pickle.dumps({"model": linear()}, protocol=protocol)
    assert all(view.storage.obj is body for view in read_module(read_message(body)["model"]).tensors.values())


def test_a_body_is_free_as_soon_as_its_tree_is_dropped():
    """Also where the sender's objects refer to one another in circles."""

    class Body(bytearray):
        pass

    body = Body(pickle.dumps({"model": odd_attributes()}, protocol=4))
    freed = weakref.ref(body)
    gc.disable()
    try:
        message = read_message(memoryview(body))
        module = read_module(message["model"])
        del message, module, body
        assert freed() is None
    finally:
        gc.enable()


def test_the_class_is_not_imported_and_need_not_exist():
    net = Named()
    body = pickle.dumps({"model": net}, protocol=4)
    body = body.replace(b"Named", b"Xamed").replace(__name__.encode(), b"x" * len(__name__))
    assert_same(read_module(read_message(body)["model"]), net)


class Named(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)


class Tagged(torch.Tensor):
    pass


class ReducedByItself(nn.Linear):
    def __reduce__(self):
        return (nn.Linear, (2, 2))


def holding(tensor):
    net = nn.Module()
    net.inner = nn.Module()
    net.inner.register_buffer("it", tensor)
    return net


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: torch.ones(2, device="meta"), "_rebuild_meta_tensor_no_storage"),
        (lambda: torch.eye(2).to_sparse(), "_rebuild_sparse_tensor"),
        (lambda: torch.ones(2, dtype=torch.complex64), "ComplexFloatStorage"),
        (lambda: torch.ones(2).to(torch.float8_e5m2), "_rebuild_tensor_v3"),
        (lambda: torch.ones(2, dtype=torch.complex64).conj().imag, "ComplexFloatStorage|negative bit"),
        (lambda: torch._neg_view(torch.ones(2)), "negative bit"),
        (lambda: torch.ones(1).expand(4), "a view of"),
        (lambda: torch.ones(2).as_subclass(Tagged), "Tagged"),
    ],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_not_a_plain_dense_tensor_is_refused_with_its_name(build, reason, protocol):
    with pytest.raises(PickleRefused, match=rf"^inner\.it: .*({reason})"):
        sent(holding(build()), protocol)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_quantized_tensor_is_refused_with_its_name():
    with pytest.raises(PickleRefused, match=r"^inner\.it: .*_rebuild_qtensor"):
        sent(holding(torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)))


def test_a_module_with_a_reduction_of_its_own_is_refused():
    with pytest.raises(PickleRefused, match=r"^1: a call of torch\.nn\.modules\.linear\.Linear is not a module"):
        sent(nn.Sequential(nn.Linear(2, 2), ReducedByItself(2, 2)))
    with pytest.raises(PickleRefused, match=r"^a call of .*reduce_graph_module is not a module"):
        sent(torch.fx.symbolic_trace(nn.Linear(2, 2)))


def test_a_lazy_parameter_is_refused():
    with pytest.raises(PickleRefused, match=r"^weight: .*UninitializedParameter"):
        sent(nn.LazyLinear(3))


def test_messages_without_a_model_are_read():
    assert read_message(pickle.dumps({"header": "<FINISHED>"})) == {"header": "<FINISHED>"}
    metrics = {"loss": 0.25, "deep": {"n": 2**40, "ok": True, "none": None}}
    assert read_message(pickle.dumps({"metrics": metrics, 3: "dropped"}, protocol=2)) == {"metrics": metrics}


@pytest.mark.parametrize("value", [None, [1], "text", (1,), Box(1), 3])
def test_a_message_is_a_dict(value):
    with pytest.raises(PickleRefused, match="is not a message"):
        read_message(pickle.dumps(value))


def test_limits_are_limits():
    body = pickle.dumps({"model": convolution()}, protocol=4)
    for limits in (PickleLimits(opcodes=100), PickleLimits(steps=3), PickleLimits(depth=0), PickleLimits(marks=2)):
        with pytest.raises(PickleRefused):
            read_module(read_message(body, limits)["model"], limits)
    with pytest.raises(PickleRefused, match="too many opcodes"):  # those of the nested files are counted too
        read_module(read_message(body)["model"], PickleLimits(opcodes=100))


def test_any_buffer_is_read():
    body = pickle.dumps([1, "two", 3.0, None, -5, 2**40, b"six"], protocol=5)
    for form in (bytes, bytearray, memoryview):
        tree = read(form(body))
        assert tree[:6] == [1, "two", 3.0, None, -5, 2**40]
        assert bytes(tree[6]) == b"six"


def test_a_compiled_module_is_read_as_the_module_inside() -> None:
    inner = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    outer = nn.Sequential(torch.compile(nn.Linear(2, 2)), inner)
    names = read_module(read(pickle.dumps(inner))).tensors.keys()
    assert read_module(read(pickle.dumps(torch.compile(inner)))).tensors.keys() == names
    found = read_module(read(pickle.dumps(outer))).tensors.keys()
    assert found == {"0.weight", "0.bias", *(f"1.{name}" for name in names)}
