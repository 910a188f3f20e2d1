"""Wrong models: what a participant can upload that is whole, its own, and not an update."""

import math
import warnings
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.e2e.hostile.inputs import Turn, Upload
from tests.e2e.hostile.net import Command, Drawer, Evil, Net, fixed_net

Spoil = Callable[[Net], object]


def place(name: str, value: float) -> Spoil:
    """One number of the tensor ``name`` is ``value``."""

    def spoil(net: Net) -> Net:
        net.state_dict()[name].view(-1)[-1] = value
        return net

    return spoil


def parameter(name: str, change: Callable[[Tensor], Tensor]) -> Spoil:
    """The parameter ``name`` is another one, with what ``change`` makes of its numbers."""

    def spoil(net: Net) -> Net:
        module, _, last = name.rpartition(".")
        holder = net.get_submodule(module)
        changed = change(holder._parameters[last].detach().clone())  # type: ignore[union-attr]
        holder._parameters[last] = nn.Parameter(changed, requires_grad=False)
        return net

    return spoil


def buffer(name: str, change: Callable[[Tensor], Tensor]) -> Spoil:
    def spoil(net: Net) -> Net:
        module, _, last = name.rpartition(".")
        holder = net.get_submodule(module)
        holder._buffers[last] = change(holder._buffers[last].clone())  # type: ignore[union-attr]
        return net

    return spoil


def after(*acts: Callable[[Net], object]) -> Spoil:
    """The model itself, after the acts."""

    def spoil(net: Net) -> Net:
        for act in acts:
            act(net)
        return net

    return spoil


def entirely(value: float) -> Spoil:
    return after(*(lambda net, i=i: list(net.parameters())[i].detach().fill_(value) for i in range(7)))


def renamed_class(net: Net) -> Net:
    place("trunk.bias", math.nan)(net)
    net.__class__ = Evil
    return net


def with_command(net: Net) -> Net:
    place("trunk.bias", math.nan)(net)
    net.odd = Command()
    net._forward_hooks = OrderedDict({0: Command()})
    return net


def many_names(net: Net) -> Net:
    for i in range(100):
        net._parameters[f"w{i}"] = net.trunk.weight
    return net


def quantized(numbers: Tensor) -> Tensor:
    with warnings.catch_warnings(action="ignore"):  # on its way out of torch; old trainers can send it for long yet
        return torch.quantize_per_tensor(numbers, 0.1, 0, torch.qint8)


def nested(net: Net) -> nn.Module:
    inner: nn.Module = net
    for _ in range(130):
        inner = nn.Sequential(inner)
    return inner


def untied(net: Net) -> Net:
    net.twin.weight = nn.Parameter(net.head.weight.detach() + 1)
    return net


NAN, INF = math.nan, math.inf
LAYOUT = "names: the update "

REJECTED: dict[str, tuple[Spoil, str]] = {
    "a NaN in a weight": (place("trunk.weight", NAN), "non_finite: trunk.weight"),
    "a NaN in the last bias": (place("twin.bias", NAN), "non_finite: twin.bias"),
    "nothing but NaN": (entirely(NAN), "non_finite"),
    "an infinity": (place("trunk.bias", INF), "non_finite: trunk.bias"),
    "a negative infinity": (place("head.weight", -INF), "non_finite: head.weight"),
    "nothing but infinity": (entirely(INF), "non_finite"),
    "a NaN in a buffer only": (place("norm.running_mean", NAN), "non_finite: norm.running_mean"),
    "an infinity in a buffer only": (place("norm.running_var", INF), "non_finite: norm.running_var"),
    "a NaN in a float64 buffer": (place("scale", NAN), "non_finite: scale"),
    "a number too large to be averaged": (place("scale", 1e300), "other: scale"),
    "a boolean that is neither": (
        buffer("mask", lambda b: b.view(torch.uint8).fill_(7).view(torch.bool)), "other: mask"),
    "tied weights that differ": (untied, "other: twin.weight and head.weight"),
    "a transposed weight": (parameter("trunk.weight", lambda w: w.t()), "shape: trunk.weight"),
    "a transposed weight, laid out anew": (parameter("trunk.weight", lambda w: w.t().contiguous()), "shape: trunk"),
    "a row too many": (parameter("trunk.weight", lambda w: torch.cat((w, w[:1]))), "shape: trunk.weight"),
    "a row too few": (parameter("trunk.weight", lambda w: w[1:].clone()), "shape: trunk.weight"),
    "a slice of a weight": (parameter("trunk.weight", lambda w: w[:, 1:]), "shape: trunk.weight"),
    "a flat weight": (parameter("trunk.weight", lambda w: w.view(-1)), "shape: trunk.weight"),
    "a dimension too many": (parameter("trunk.bias", lambda b: b.unsqueeze(0)), "shape: trunk.bias"),
    "a scalar": (parameter("trunk.bias", lambda b: b[0]), "shape: trunk.bias"),
    "a tensor without elements": (parameter("trunk.bias", lambda b: b[:0]), "shape: trunk.bias"),
    "a tensor of shape (0, 784)": (parameter("trunk.weight", lambda w: w[:0]), "shape: trunk.weight"),
    "a counter with a dimension": (buffer("norm.num_batches_tracked", lambda c: c.view(1)), "shape: norm"),
    "a missing parameter": (after(lambda n: n.trunk._parameters.pop("bias")), LAYOUT + "lacks 'trunk.bias'"),
    "a parameter that is None": (after(lambda n: n.trunk.register_parameter("bias", None)), LAYOUT + "lacks"),
    "a missing buffer": (after(lambda n: n._buffers.pop("scale")), LAYOUT + "lacks 'scale'"),
    "a buffer that does not persist": (after(lambda n: n._non_persistent_buffers_set.add("scale")), LAYOUT + "lacks"),
    "a missing module": (after(lambda n: n._modules.pop("norm")), LAYOUT + "lacks 'norm"),
    "a model without tensors": (lambda net: nn.Module(), LAYOUT + "lacks"),
    "another architecture": (lambda net: nn.Linear(784, 10), LAYOUT + "lacks .* and adds"),
    "an extra parameter": (
        after(lambda n: n.register_parameter("w", nn.Parameter(torch.ones(3)))), LAYOUT + "adds 'w'"),
    "an extra buffer": (after(lambda n: n.register_buffer("w", torch.ones(3))), LAYOUT + "adds 'w'"),
    "an extra name with terminal escapes": (
        after(lambda n: n._buffers.update({"\x1b[2J\n\x07": torch.ones(3)})), LAYOUT + r"adds '\\x1b\[2J\\n\\x07'"),
    "a renamed parameter": (
        after(lambda n: n.trunk._parameters.update({"Bias": n.trunk._parameters.pop("bias")})), "lacks .* and adds"),
    "a renamed module": (after(lambda n: n._modules.update(stem=n._modules.pop("trunk"))), "lacks .* and adds"),
    "a model inside a module": (lambda net: nn.Sequential(net, nn.Linear(1, 1)), "lacks .* and adds '0[.]"),
    "float16 for float32": (parameter("trunk.weight", Tensor.half), "dtype: trunk.weight is float16"),
    "bfloat16 for float32": (parameter("trunk.weight", Tensor.bfloat16), "dtype: trunk.weight is bfloat16"),
    "float64 for float32": (parameter("trunk.weight", Tensor.double), "dtype: trunk.weight is float64"),
    "int64 for float32": (parameter("trunk.bias", Tensor.long), "dtype: trunk.bias is int64"),
    "int32 for float32": (parameter("trunk.bias", lambda b: b.view(torch.int32)), "dtype: trunk.bias is int32"),
    "booleans for float32": (parameter("trunk.bias", Tensor.bool), "dtype: trunk.bias is bool"),
    "float32 for float64": (buffer("scale", Tensor.float), "dtype: scale is float32"),
    "a counter in float32": (buffer("norm.num_batches_tracked", Tensor.float), "dtype: norm.num_batches_tracked"),
    "bytes for booleans": (buffer("mask", lambda b: b.view(torch.uint8)), "dtype: mask is uint8"),
    "a NaN under the name of another class": (renamed_class, "non_finite: trunk.bias"),
    "a NaN and commands in attributes and hooks": (with_command, "non_finite: trunk.bias"),
}  # fmt: skip

UNREADABLE: dict[str, tuple[Spoil, str]] = {
    "a model that is None": (lambda net: None, "NoneType is not a module"),
    "a model that is a state_dict": (lambda net: dict(net.state_dict()), "dict is not a module"),
    "a model that is an OrderedDict": (lambda net: net.state_dict(), "is not a module"),
    "a model that is a list of tensors": (lambda net: list(net.parameters()), "list is not a module"),
    "a model that is a text": (lambda net: "model", "str is not a module"),
    "a model that is its own class": (lambda net: Net, "is not a module"),
    "a model that is a tensor": (lambda net: net.trunk.weight, "is not a module"),
    "complex numbers": (parameter("trunk.bias", lambda b: b.to(torch.complex64)), "ComplexFloatStorage is not a kind"),
    "8-bit floats": (parameter("trunk.bias", lambda b: b.to(torch.float8_e4m3fn)), "trunk.bias: "),
    "a quantized tensor": (buffer("norm.running_mean", quantized), "norm.running_mean: "),
    "a sparse tensor": (buffer("norm.running_mean", Tensor.to_sparse), "norm.running_mean: "),
    "a tensor without data": (buffer("norm.running_mean", lambda b: b.to("meta")), "norm.running_mean: "),
    "a tensor of a type of its own": (
        buffer("norm.running_mean", lambda b: b.as_subclass(Drawer)), "running_mean: a tensor of a type of its own"),
    "one number for all": (
        parameter("trunk.weight", lambda w: torch.zeros(1).expand(48, 784)), "a view of .* in a storage of 1"),
    "a hundred more names of one tensor": (many_names, "its tensors hold more than"),
    "modules 130 deep": (nested, "modules nest deeper than"),
    "a module that is a command": (after(lambda n: n._modules.update(norm=Command())), "norm: a call of"),
    "a parameter that is a command": (after(lambda n: n.trunk._parameters.update(bias=Command())), "trunk.bias: "),
    "a name with a dot in it": (after(lambda n: n._buffers.update({"a.b": torch.ones(3)})), "torch has no such name"),
    "a parameter and a buffer of one name": (
        after(lambda n: n._buffers.update(trunk=torch.ones(3)), lambda n: n._parameters.update(trunk=n.head.bias)),
        "both a parameter and a buffer"),
}  # fmt: skip


def _good(net: Net) -> Net:
    return net


NAN_WEIGHT = place("trunk.weight", NAN)
UNASKED = "no model of this client is unanswered"
SAME = UNASKED + "|the same update as the one that answered"
ANOTHER = UNASKED + "|another update than the one that answered"
OVER = "attempt 1 of round .* is over"

UPLOADS: tuple[Upload, ...] = (
    *(Upload(name=f"model: {what}", spoil=spoil, reason=reason) for what, (spoil, reason) in REJECTED.items()),
    *(
        Upload(name=f"model: {what}", spoil=spoil, reason=reason, decision=None)
        for what, (spoil, reason) in UNREADABLE.items()
    ),
    Upload(name="framing: a participant's two frames at once", klass="framing", spoil=NAN_WEIGHT, reason="non_finite",
           trailing=bytes(7) + b"\x02{}"),
    Upload(name="framing: bytes after a participant's frame", klass="framing", spoil=NAN_WEIGHT, reason="non_finite",
           trailing=b"GET / HTTP/1.1\r\n\r\n"),
    Upload(name="identity: an upload twice, with the same content", klass="identity", reason=SAME,
           spoil=lambda net: NAN_WEIGHT(fixed_net()), decision="duplicate", turn=Turn.ANSWERED),
    Upload(name="identity: an upload twice, then with a good model", klass="identity", spoil=_good, reason=ANOTHER,
           decision="duplicate", turn=Turn.ANSWERED),
    Upload(name="identity: an upload twice, then as a text", klass="identity", spoil=lambda net: "model",
           reason="str is not a module", decision=None, turn=Turn.ANSWERED),
    Upload(name="identity: a good model when its round is over", klass="identity", spoil=_good, reason=OVER,
           decision="late", turn=Turn.LATE),
    Upload(name="identity: a NaN when its round is over", klass="identity", spoil=NAN_WEIGHT, reason=OVER,
           decision="late", turn=Turn.LATE),
    Upload(name="identity: no model when its round is over", klass="identity", spoil=_good, reason="without a header",
           decision=None, turn=Turn.LATE, fields=(("header", None),)),
)  # fmt: skip
