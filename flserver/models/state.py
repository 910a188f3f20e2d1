"""A model's state: names to CPU tensors, and to and from the wire's flat buffers and files."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from flserver.errors import UsageError, one_line
from flserver.models.pages import lent
from flserver.wire.dtypes import DTYPES
from flserver.wire.pickles import Module, TensorView

State = dict[str, Tensor]
"""A model's tensors in the order of ``state_dict()``: on the CPU, cut off from autograd, and contiguous unless they
came over the wire."""

Pieces = Mapping[str, Tensor | Sequence[Tensor]]
"""A state some of whose tensors are given by their rows, one or more, which are alike and lie apart."""

_NUMBERS = (torch.float32, torch.float64, torch.int64)  # what most tensors hold, and memoryviews know
_NUMPYS = {str(dtype).removeprefix("torch."): torch.empty(0, dtype=dtype).numpy().dtype for dtype in _NUMBERS}

TORCH_DTYPES = {name: getattr(torch, name) for name in DTYPES}
"""The dtypes that a model may hold, by their name."""

# torch warns, once a process, when a tensor first lies over a read-only buffer. Here that is meant: the once is spent.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
    torch.frombuffer(b"\0", dtype=torch.uint8)


def slots(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, dict[str, Any], str]]:
    """Where each entry of ``module.state_dict()`` is kept, in its order: its name, after ``prefix``; the dict of the
    module, or of a module in it, that holds it; its key in that dict."""
    kept = [key for key in module._buffers if key not in module._non_persistent_buffers_set]
    for holder, keys in ((module._parameters, list(module._parameters)), (module._buffers, kept)):
        for key in keys:
            if holder[key] is not None:
                yield prefix + key, holder, key
    for key, child in module._modules.items():
        if child is not None:
            yield from slots(child, f"{prefix}{key}.")


def together(pieces: Pieces) -> State:
    """A state whose rows do not lie apart: copies of those that did."""
    return {name: one if isinstance(one, Tensor) else torch.stack(list(one)) for name, one in pieces.items()}


def whole(tensor: Tensor) -> Tensor:
    """A copy of ``tensor`` on the CPU that is contiguous and fills its storage, cut off from autograd."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())


def is_whole(tensor: Tensor) -> bool:
    """Whether ``tensor`` is on the CPU, contiguous, and fills its storage."""
    return tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes


def state_of(module: nn.Module, *, shared: bool = False) -> State:
    """A copy of the module's state, which later training does not touch. Entries that share their memory in the module
    are one tensor in the copy too. Where it is ``shared``, tensors that are whole are not copied: for whoever lets the
    module go."""
    first = tied_names(module)
    state: State = {}
    for name, tensor in module.state_dict().items():
        lent = shared and is_whole(tensor)
        state[name] = state[first[name]] if name in first else tensor.detach() if lent else whole(tensor)
    return state


def unset_state(dtypes: Mapping[str, torch.dtype], shapes: Mapping[str, torch.Size]) -> State:
    """Tensors with whatever is in their memory, which is one piece and cheap to fill. ``dtypes`` and ``shapes`` have
    the same names."""
    sizes = {name: math.prod(shape) * dtypes[name].itemsize for name, shape in shapes.items()}
    memory = torch.frombuffer(lent(sum(map(_aligned, sizes.values())) or 1), dtype=torch.uint8)
    state, offset = {}, 0
    for name, size in sizes.items():
        state[name] = memory[offset : offset + size].view(dtypes[name]).view(shapes[name])
        offset += _aligned(size)
    return state


def state_bytes(like: State) -> int:
    """The bytes of memory that :func:`state_over` needs; 1 or more."""
    return sum(_aligned(tensor.nbytes) for tensor in like.values()) or 1


def state_over(memory: memoryview, like: State) -> State:
    """Tensors with the names, dtypes and shapes of ``like``, whose values are the bytes at the start of ``memory``."""
    flat = torch.frombuffer(memory, dtype=torch.uint8)
    state, offset = {}, 0
    for name, tensor in like.items():
        state[name] = flat[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        offset += _aligned(tensor.nbytes)
    return state


def _aligned(size: int) -> int:
    """``size`` rounded up, so that what follows begins where vector instructions like it."""
    return -(-size // 64) * 64


def load_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy ``state`` into the module, on whatever device that is. Raises UsageError where a name, shape or dtype
    differs."""
    check_same_layout(module.state_dict(), state, "the state")
    module.load_state_dict(state)


def as_tensor(view: TensorView) -> Tensor:
    """A tensor, of the view's shape and dtype, over the view's own memory. Over a read-only buffer it must not be
    written to. Raises KeyError for a dtype that is not in ``TORCH_DTYPES``."""
    dtype, like = TORCH_DTYPES[view.dtype], _NUMPYS.get(view.dtype)
    if like is not None and not view.storage.readonly and view.stride == _strides(view.shape) and 0 not in view.shape:
        # Each of torch's operations gives the interpreter away, which others wait for; numpy's do not.
        count = math.prod(view.shape)
        numbers = np.frombuffer(view.storage, like, count, view.offset * dtype.itemsize)
        return torch.from_numpy(numbers.reshape(view.shape))
    count = len(view.storage) // dtype.itemsize
    if count == 0:  # torch.frombuffer refuses empty buffers
        return torch.empty(0, dtype=dtype).as_strided(view.shape, view.stride)
    return torch.frombuffer(view.storage, dtype=dtype, count=count).as_strided(view.shape, view.stride, view.offset)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Those of a contiguous tensor."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def tensor_over(array: np.ndarray) -> Tensor:
    """A tensor over the memory of an array that is contiguous. Over a read-only one it must not be written to."""
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    if not array.size:
        return torch.empty(array.shape, dtype=dtype)
    return torch.frombuffer(array, dtype=dtype).view(array.shape)


def read_state(module: Module) -> State:
    """The state of a module that came over the wire, as tensors over the memory of its body: they are not copied, and
    not all of them are contiguous."""
    return {name: as_tensor(view) for name, view in module.tensors.items()}


def raw_bytes(tensor: Tensor) -> memoryview:
    """The values of a tensor on the CPU as little-endian bytes in row-major order: its own memory where it is
    contiguous, else a copy."""
    if tensor.requires_grad or not tensor.is_contiguous():
        tensor = tensor.detach().contiguous()
    if tensor.dtype in _NUMBERS and tensor.numel():
        return tensor.numpy().data.cast("B")
    return tensor.view(-1).view(torch.uint8).numpy().data


def write_state(template: Module, state: Mapping[str, Tensor]) -> None:
    """Copy each tensor of ``state`` into the memory of the template's tensor of that name, which has its shape.

    Raises KeyError where ``state`` lacks a name.
    """
    for name, view in template.tensors.items():
        as_tensor(view).copy_(state[name].detach())


def tied_names(source: nn.Module | Mapping[str, Tensor]) -> dict[str, str]:
    """The names of tensors that have an earlier name in ``source``, a module or a state, each with the first one.

    Two names mean one tensor where memory, dtype, shape and stride are the same.
    """
    tensors = source.state_dict() if isinstance(source, nn.Module) else source
    first: dict[tuple[Any, ...], str] = {}
    tied = {}
    for name, tensor in tensors.items():
        if tensor.numel():
            place = (tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride())
            if first.setdefault(place, name) != name:
                tied[name] = first[place]
    return tied


def read_weights(path: Path) -> State:
    """Read the tensors of the safetensors file at ``path``. Raises UsageError, one line, where it cannot be read."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"cannot read weights from {path}: {one_line(error)}") from error


def check_same_layout(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str) -> None:
    """Raises UsageError where the tensors' names, shapes or dtypes in ``given`` are not those in ``expected``.

    Their order is free. The error begins with ``what``, which says what was given, and names the first difference.
    """
    for name, tensor in expected.items():
        if name not in given:
            raise UsageError(f"{what} lacks {name}")
        for kind in ("shape", "dtype"):
            wanted, found = getattr(tensor, kind), getattr(given[name], kind)
            if wanted != found:
                raise UsageError(f"{what}: {name} has {kind} {_short(found)} where {_short(wanted)} is needed")
    for name in given:
        if name not in expected:
            raise UsageError(f"{what} has {name}, which the model has not")


def _short(value: object) -> str:
    return str(tuple(value)) if isinstance(value, torch.Size) else str(value).removeprefix("torch.")
