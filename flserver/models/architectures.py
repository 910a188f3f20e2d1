"""Architectures by name, and a model in the form in which it travels."""

import copy
import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from flserver.errors import UsageError, one_line
from flserver.models.state import is_whole, slots, tied_names, whole
from flserver.plugins import import_attribute
from flserver.text import did_you_mean
from flserver.wire.dtypes import DTYPES
from flserver.wire.template import Payload, Space

DEFAULT_MODEL = "neural_net_helper:NeuralNet"


class NeuralNet(nn.Module):
    """The model that the trainers in the field know: softmax regression over 784 pixels, log-probabilities out."""

    # pickle writes this name. The trainers have such a module; where there is none here, a stand-in is registered.
    __module__ = "neural_net_helper"

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities (N, 10) of images (N, 784) or (N, 1, 28, 28)."""
        return functional.log_softmax(self.fc1(torch.flatten(x, 1)), dim=1)


def build(spec: str, seed: int, num_outputs: int | None = None) -> nn.Module:
    """Build the model that ``spec`` names, on the CPU in training mode. Its weights depend on ``seed`` alone.

    ``neural_net_helper:NeuralNet`` is built in where no module of that name can be imported. ``torchvision:NAME`` is a
    classification model without pretrained weights; it tells ``num_outputs`` classes apart, or as many as torchvision
    says where that is None. ``package.module:factory`` is called without arguments. The caller's CPU random state is
    left as it was.

    Raises UsageError, one line, where this gives no model, or one that cannot travel.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            module = _factory(spec, num_outputs)()
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"--model {spec!r} failed: {one_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"--model {spec!r} gave a {type(module).__name__}, not a torch.nn.Module")
    _check_fit_to_travel(module, f"--model {spec!r}")
    return module.cpu().train()


def _factory(spec: str, num_outputs: int | None) -> Any:
    source, _, name = spec.partition(":")
    if spec == DEFAULT_MODEL and stand_in():
        return NeuralNet
    if source != "torchvision":
        return import_attribute(spec, "--model")
    import torchvision.models as zoo  # 2 s: only who asks for it pays

    known = zoo.list_models(module=zoo)
    if name not in known:
        meant = did_you_mean(name, known)
        raise UsageError(f"--model {spec!r}: torchvision has no classification model {name!r}{meant}")
    options: dict[str, Any] = {} if num_outputs is None else {"num_classes": num_outputs}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True  # what they do unasked, with a warning that this will change
    return lambda: zoo.get_model(name, weights=None, **options)


def stand_in() -> bool:
    """Whether ``neural_net_helper`` is ours: registered so that pickle, which looks a class's module up, finds it."""
    name = NeuralNet.__module__
    known = sys.modules.get(name)
    if known is None:
        if importlib.util.find_spec(name) or Path(f"{name}.py").exists():
            return False
        known = types.ModuleType(name, "Stands in for the trainers' module of this name.")
        known.__dict__[NeuralNet.__name__] = NeuralNet
        sys.modules[name] = known
    return known.__dict__.get(NeuralNet.__name__) is NeuralNet


def _check_fit_to_travel(module: nn.Module, what: str) -> None:
    for name, holder, key in slots(module):
        tensor = holder[key]
        if nn.parameter.is_lazy(tensor):
            raise UsageError(f"{what}: {name} has no shape yet: a lazy module needs a dry run in the factory")
        dtype, layout = (str(of).removeprefix("torch.") for of in (tensor.dtype, tensor.layout))
        kind = "meta" if tensor.is_meta else "quantized" if tensor.is_quantized else dtype
        if kind not in DTYPES or tensor.layout != torch.strided:
            raise UsageError(f"{what}: {name} is a {kind} tensor of layout {layout}: not supported")
    if list(module.state_dict()) != [name for name, _, _ in slots(module)]:
        raise UsageError(f"{what}: its state_dict() is not its parameters and buffers")


class _CopiesOfResults(TorchFunctionMode):
    """Lets a deep copy take along what was computed of parameters and kept in an attribute (``weight_norm`` does so),
    which torch refuses to copy: as pickle does, as a tensor by itself."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = whole(tensor).requires_grad_(tensor.requires_grad)
            return memo[id(tensor)]
        return function(*args, **(kwargs or {}))


def wire_module(module: nn.Module) -> nn.Module:
    """A copy of ``module`` that can be pickled: in training mode, on the CPU, each tensor alone in its storage.

    Parameters and buffers that are so already are the module's own. Entries of the state that share their memory become
    one object: pickle keeps ties between identical objects only. Hooks are copied as they are. Raises UsageError where
    the module cannot be copied, or holds a tensor that has no place on the wire.
    """
    _check_fit_to_travel(module, "the model")
    first = tied_names(module)
    own = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers()) if is_whole(tensor)}
    try:
        with _CopiesOfResults():
            twin = copy.deepcopy(module, own).train()
    except Exception as error:
        raise UsageError(f"the model cannot be copied: {one_line(error)}") from error
    made: dict[str, Tensor] = {}
    for name, holder, key in slots(twin):
        tensor = holder[key]
        tied = made.get(first.get(name, name))
        if tied is not None and type(tied) is type(tensor):
            holder[key] = tied
        else:
            _make_whole(tensor)
            made[name] = tensor
    for buffer in twin.buffers():  # those that are not persistent travel too
        _make_whole(buffer)
    return twin


def _make_whole(tensor: Tensor) -> None:
    """In place: other attributes may hold the same object (an LSTM's list of its weights)."""
    if not is_whole(tensor):
        tensor.data = whole(tensor)


def payload_of(value: object) -> Payload | None:
    """A storage as torch pickles it, for ``Template.of``: written straight to its place."""
    if not isinstance(value, torch.storage.TypedStorage | torch.UntypedStorage):
        return None
    size = value._untyped_storage.nbytes() if isinstance(value, torch.storage.TypedStorage) else value.nbytes()

    def write(file: Space) -> None:
        torch.save(value, file, _use_new_zipfile_serialization=False)  # type: ignore[arg-type]  # it needs no more

    return Payload(torch.storage._load_from_bytes, size, write)
