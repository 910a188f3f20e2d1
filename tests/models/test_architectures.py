"""Architectures by name, and their state to and from the wire."""

import pickle
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from flserver.errors import UsageError
from flserver.models.architectures import DEFAULT_MODEL, build, wire_module
from flserver.models.measuring import check_data_fits, device_for, loss_and_accuracy, loss_of
from flserver.models.state import (
    TORCH_DTYPES,
    as_tensor,
    check_same_layout,
    load_state,
    read_state,
    read_weights,
    state_of,
    tied_names,
    write_state,
)
from flserver.wire.pickles import TensorView
from flserver.wire.template import Template

ZOO = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)

def frozen():
    return Small().eval()

def raises():
    raise ValueError("no\\nweights")

def number():
    return 3

def lazy():
    return nn.LazyLinear(3)

def meta():
    return nn.Linear(3, 2, device="meta")

def complex_():
    return nn.Linear(3, 2, dtype=torch.complex64)

def sparse():
    module = nn.Linear(3, 2)
    module.register_buffer("mask", torch.eye(3).to_sparse())
    return module

def hooked():
    module = nn.Sequential(nn.Linear(3, 2))
    module[0].register_forward_hook(print)
    return module

class Renamed(nn.Linear):
    def _save_to_state_dict(self, destination, prefix, keep_vars):
        destination[prefix + "w"] = self.weight

def renamed():
    return Renamed(3, 2)
"""


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch, tmp_path):
    """An operator's directory with a module ``zoo``; what a test imports or registers is forgotten after it."""
    (tmp_path / "zoo.py").write_text(ZOO)
    (tmp_path / "broken.py").write_text("import no_such_thing")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("zoo", "broken", "neural_net_helper"):
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]


class Awkward(nn.Module):
    """Tensors that do not fill their storage, ties, buffers of both kinds, a recurrent layer's own list of weights."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.twin = nn.Parameter(self.embedding.weight.data)
        self.transposed = nn.Parameter(torch.arange(6.0).reshape(2, 3).t(), requires_grad=False)
        self.sliced = nn.Parameter(torch.arange(1000.0)[10:14])
        self.rnn = nn.LSTM(2, 3)
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("scratch", torch.arange(4.0)[::2], persistent=False)
        self.register_buffer("flag", torch.tensor([True, False]))
        self.register_parameter("missing", None)


# --- build -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [DEFAULT_MODEL, "zoo:Small", "torchvision:squeezenet1_1"])
def test_weights_depend_on_the_seed_alone(spec):
    torch.manual_seed(5)
    first = build(spec, 1).state_dict()
    expected_next = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), expected_next), "the caller's random state moved"
    again, other = build(spec, 1).state_dict(), build(spec, 2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_default_model_travels_under_the_name_that_the_field_knows():
    module = build(DEFAULT_MODEL, 0)
    body = pickle.dumps(module)
    assert b"neural_net_helper" in body
    assert type(pickle.loads(body)) is type(module)
    assert type(build(DEFAULT_MODEL, 0)) is type(module), "the stand-in is ours the second time too"
    x = torch.rand(3, 1, 28, 28)
    assert torch.allclose(module(x).exp().sum(1), torch.ones(3))
    assert torch.equal(module(x), torch.log_softmax(module.fc1(x.reshape(3, 784)), 1))


@pytest.mark.parametrize("on_path", [True, False])
def test_the_operators_own_neural_net_helper_comes_first(tmp_path, monkeypatch, on_path):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "neural_net_helper.py").write_text("from torch import nn\ndef NeuralNet(): return nn.Linear(3, 2)\n")
    if on_path:
        sys.path.insert(0, str(folder))
    else:
        monkeypatch.chdir(folder)
    assert build(DEFAULT_MODEL, 0).weight.shape == (2, 3)


def test_a_model_comes_in_training_mode_whatever_the_factory_did():
    assert all(module.training for module in build("zoo:frozen", 0).modules())


def test_torchvision_models_take_the_number_of_classes():
    assert build("torchvision:squeezenet1_1", 0, num_outputs=7)(torch.rand(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("nonsense", "is not of the form package.module:name"),
        ("zoo:", "is not of the form"),
        ("os.path:join; print()", "is not of the form"),
        ("no_such_module:Net", "cannot import no_such_module: ModuleNotFoundError: No module named 'no_such_module'"),
        ("broken:Net", "cannot import broken: ModuleNotFoundError: No module named 'no_such_thing'"),
        ("zoo:Absent", "zoo has no Absent"),
        ("zoo:raises", "failed: ValueError: no weights"),
        ("zoo:number", "gave a int, not a torch.nn.Module"),
        ("zoo:lazy", "weight has no shape yet"),
        ("zoo:meta", "weight is a meta tensor"),
        ("zoo:complex_", "weight is a complex64 tensor"),
        ("zoo:sparse", "mask is a float32 tensor of layout sparse_coo"),
        ("zoo:hooked", "0 has forward_hooks; hooks do not travel"),
        ("zoo:renamed", "state_dict() is not its parameters and buffers"),
        ("torchvision:no_such_net", "no classification model 'no_such_net'"),
        ("torchvision:fcn_resnet50", "no classification model"),
    ],
)
def test_what_gives_no_model_is_a_usage_error_of_one_line(spec, reason):
    with pytest.raises(UsageError) as caught:
        build(spec, 0)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


# --- state and wire --------------------------------------------------------------------------------------------------


def test_wire_module_fills_its_storages_and_keeps_ties():
    module = Awkward().eval()
    twin = wire_module(module)
    assert twin.training
    assert not module.training
    assert list(twin.state_dict()) == list(module.state_dict())
    for name, tensor in [*twin.named_parameters(), *twin.named_buffers()]:
        assert tensor.is_contiguous(), name
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, name
    for name, tensor in module.state_dict().items():
        assert torch.equal(twin.state_dict()[name], tensor), name
        assert twin.state_dict()[name].data_ptr() != tensor.data_ptr(), name
    assert twin.head.weight is twin.embedding.weight
    assert twin.twin is twin.embedding.weight
    assert [weight.data_ptr() for weight in twin.rnn._flat_weights] == [p.data_ptr() for p in twin.rnn.parameters()]
    assert not twin.transposed.requires_grad
    assert twin.sliced.requires_grad


def test_wire_module_refuses_hooks():
    module = nn.Linear(2, 2)
    module.register_forward_pre_hook(print)
    with pytest.raises(UsageError, match="hooks do not travel"):
        wire_module(module)


def test_a_state_written_into_a_template_is_what_a_peer_unpickles():
    module = Awkward()
    template = Template.of({"header": "<MODEL>", "model": wire_module(module)})
    state = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in state_of(module).items()}
    write_state(template.module, state)
    read_back = read_state(template.module)
    unpickled = pickle.loads(template.buffer)["model"].state_dict()
    assert list(unpickled) == list(read_back) == list(state)
    for name, tensor in state.items():
        assert torch.equal(unpickled[name], tensor), name
        assert torch.equal(read_back[name], tensor), name


def test_state_is_a_contiguous_copy_with_its_ties():
    module = Awkward()
    state = state_of(module)
    before = {name: tensor.clone() for name, tensor in state.items()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    assert all(torch.equal(state[name], before[name]) and state[name].is_contiguous() for name in state)
    assert not any(tensor.requires_grad for tensor in state.values())
    assert tied_names(state) == tied_names(module) == {"embedding.weight": "twin", "head.weight": "twin"}
    load_state(module, state)
    assert torch.equal(module.sliced, before["sliced"])


def test_load_state_refuses_another_layout():
    module = nn.Linear(3, 2)
    with pytest.raises(UsageError, match="the state: weight has dtype float64 where float32 is needed"):
        load_state(module, {name: tensor.double() for name, tensor in module.state_dict().items()})


@pytest.mark.parametrize("dtype", list(TORCH_DTYPES))
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_a_view_is_read_in_place_whatever_its_type_and_alignment(dtype, shift):
    values = torch.tensor([0, 1, 1, 0, 1, 1]).to(TORCH_DTYPES[dtype])
    raw = values.view(torch.uint8).numpy().tobytes()
    for buffer in (bytes(shift) + raw, bytearray(bytes(shift) + raw)):
        storage = memoryview(buffer)[shift:]
        view = TensorView(dtype=dtype, shape=(2, 2), stride=(1, 2), offset=1, storage=storage)
        assert torch.equal(as_tensor(view), values.as_strided((2, 2), (1, 2), 1))
    as_tensor(view)[1, 0] = 0
    assert buffer[shift + 2 * values.itemsize : shift + 3 * values.itemsize] == bytes(values.itemsize)


def test_views_without_elements_and_without_dimensions():
    empty = TensorView(dtype="float32", shape=(0, 3), stride=(3, 1), offset=0, storage=memoryview(b""))
    assert as_tensor(empty).shape == (0, 3)
    scalar = TensorView(dtype="int64", shape=(), stride=(), offset=1, storage=memoryview(bytes(8) + b"\7" + bytes(7)))
    assert as_tensor(scalar).item() == 7


def test_weights_from_a_file(tmp_path):
    state = state_of(nn.Linear(3, 2))
    save_file(state, tmp_path / "weights.safetensors")
    read = read_weights(tmp_path / "weights.safetensors")
    assert all(torch.equal(read[name], state[name]) for name in state)
    (tmp_path / "text").write_text("not tensors\n" * 9)
    for name in ("absent", "text", "."):
        with pytest.raises(UsageError, match="cannot read weights from") as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_layouts_are_compared_by_name_shape_and_dtype():
    expected = {"a": torch.zeros(2, 3), "b": torch.zeros(1)}
    check_same_layout(expected, {"b": torch.ones(1), "a": torch.ones(2, 3)}, "the file")
    for given, reason in [
        ({"a": torch.zeros(2, 3)}, "the file lacks b"),
        ({"a": torch.zeros(3, 2), "b": torch.zeros(1)}, r"the file: a has shape \(3, 2\) where \(2, 3\) is needed"),
        ({"a": torch.zeros(2, 3).half(), "b": torch.zeros(1)}, "a has dtype float16 where float32 is needed"),
        (expected | {"c": torch.zeros(1)}, "the file has c, which the model has not"),
    ]:
        with pytest.raises(UsageError, match=reason):
            check_same_layout(expected, given, "the file")


# --- measuring -------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_negative_log_likelihood_of_log_probabilities_and_of_logits():
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    expected = -logits.softmax(1)[torch.arange(7), labels].log().mean()
    assert torch.allclose(loss_of(logits, labels), expected)
    assert torch.allclose(loss_of(logits.log_softmax(1), labels), expected)


def test_loss_and_accuracy_weigh_every_sample_the_same_in_evaluation_mode():
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Dropout(0.9))
    with torch.no_grad():
        module[0].weight.copy_(torch.eye(2))
    x, y = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1])
    expected = torch.nn.functional.cross_entropy(x, y).item()
    for batch_size in (1, 2, 1024):
        loss, accuracy = loss_and_accuracy(module, x, y, torch.device("cpu"), batch_size)
        assert loss == pytest.approx(expected)
        assert accuracy == pytest.approx(2 / 3)
    assert module.training


def test_a_model_that_does_not_take_the_data_is_told_at_once():
    x, y = torch.zeros(3, 4), torch.tensor([0, 1, 2])
    check_data_fits(nn.Linear(4, 3), x, y, "the data")
    for module, reason in [
        (nn.Linear(5, 3), r"does not take the data of shape \(3, 4\): RuntimeError"),
        (nn.Linear(4, 2), "tells 2 classes apart; the data has the label 2"),
        (nn.Unflatten(1, (2, 2)), "one row of classes"),
    ]:
        with pytest.raises(UsageError, match=reason):
            check_data_fits(module, x, y, "the data")


def test_the_device_is_what_was_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_for(None).type == device_for(False).type == "cpu"
    with pytest.raises(UsageError, match="no CUDA"):
        device_for(True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_for(None).type == device_for(True).type == "cuda"
    assert device_for(False).type == "cpu"
