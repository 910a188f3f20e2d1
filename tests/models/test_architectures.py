"""Architectures by name, seed and all, and as they travel."""

import pickle
import sys

import pytest
import torch
from torch import nn

from flserver.errors import UsageError
from flserver.models.architectures import DEFAULT_MODEL, build, wire_module
from tests.models.modules import Awkward

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
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("zoo", "neural_net_helper"):
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]


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
        ("nonsense", "--model 'nonsense' is not of the form package.module:name or torchvision:name"),
        ("zoo:Absent", "zoo has no Absent"),
        ("zoo:raises", "failed: ValueError: no weights"),
        ("zoo:number", "gave a int, not a torch.nn.Module"),
        ("zoo:lazy", "weight has no shape yet: a lazy module needs a dry run in the factory"),
        ("zoo:meta", "weight is a meta tensor"),
        ("zoo:complex_", "weight is a complex64 tensor"),
        ("zoo:sparse", "mask is a float32 tensor of layout sparse_coo"),
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


def test_wire_module_fills_its_storages_keeps_ties_and_copies_nothing_that_does_so_already():
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
        copied = twin.state_dict()[name].data_ptr() != tensor.data_ptr()
        assert copied == (name in ("transposed", "sliced")), name
    assert twin.head.weight is twin.embedding.weight
    assert twin.twin is twin.embedding.weight
    assert [weight.data_ptr() for weight in twin.rnn._flat_weights] == [p.data_ptr() for p in twin.rnn.parameters()]
    assert not twin.transposed.requires_grad
    assert twin.sliced.requires_grad


def test_hooks_are_no_reason_to_refuse_a_model_and_are_copied():
    module = build("zoo:hooked", 0)
    assert list(wire_module(module)[0]._forward_hooks.values()) == [print]


def test_what_was_computed_of_parameters_is_copied_wherever_it_is_kept():
    module = nn.Sequential(nn.Linear(2, 2))
    module[0].last = [module[0].weight * 2]
    module.also = module[0].last[0]
    twin = wire_module(module)
    assert twin.also is twin[0].last[0]
    assert (twin.also.is_leaf, twin.also.requires_grad) == (True, True), "as pickle would have it"
    assert torch.equal(twin.also, module.also)
