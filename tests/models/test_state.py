"""A state by its names: from a module or a file, to and from the wire."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from flserver.errors import UsageError
from flserver.models.architectures import wire_module
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
from tests.models.modules import Awkward


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


def test_a_shared_state_is_the_modules_own_memory_where_that_is_whole():
    module = Awkward()
    copied, shared = state_of(module), state_of(module, shared=True)
    assert list(shared) == list(copied)
    for name, tensor in module.state_dict().items():
        assert torch.equal(shared[name], tensor), name
        assert shared[name].is_contiguous(), name
        assert not shared[name].requires_grad, name
        assert copied[name].data_ptr() != tensor.data_ptr() or not tensor.numel(), name
        assert (shared[name].data_ptr() == tensor.data_ptr()) == (name not in ("transposed", "sliced")), name
