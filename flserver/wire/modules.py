"""From a pickled ``nn.Module`` to the tensors that its ``state_dict()`` would name, as views of the body."""

from dataclasses import dataclass
from typing import Final, NamedTuple

from flserver.errors import PickleRefused
from flserver.wire.dtypes import DTYPES
from flserver.wire.inert import Call, Instance, Name, PickleLimits, Tick, described, quoted, unmetered
from flserver.wire.storages import StorageReader

_REBUILD_TENSOR: Final = Name("torch._utils", "_rebuild_tensor")
_REBUILD_TENSOR_V2: Final = Name("torch._utils", "_rebuild_tensor_v2")
_REBUILD_FROM_TYPE: Final = Name("torch._tensor", "_rebuild_from_type_v2")
# What they do to the tensor inside changes neither its numbers nor its name: (tensor, requires_grad, hooks[, state]).
_REBUILD_PARAMETER: Final = {
    Name("torch._utils", "_rebuild_parameter"): 3,
    Name("torch._utils", "_rebuild_parameter_with_state"): 4,
}
# A tensor or parameter that somebody set attributes on, and torch.nn.Buffer. Any other subclass may reinterpret the
# numbers (a quantized or a distributed tensor does), so its numbers mean nothing without its code.
_PLAIN_TYPES: Final = frozenset(
    (Name("torch", "Tensor"), Name("torch.nn.parameter", "Parameter"), Name("torch.nn.parameter", "Buffer"))
)
_TENSOR_WRAPPERS: Final = 4
_SLICE: Final = 128  # steps between two ticks
_PART: Final = 600  # bytes of memory that a tensor's view and its names take
_SIZE_LIMIT: Final = 2**63  # torch counts sizes, strides, elements and bytes in int64


@dataclass(frozen=True, kw_only=True)
class TensorView:
    """A strided view of a storage; it lies inside it, and has no more elements than it.

    ``shape`` and ``stride`` (elements) have one entry a dimension, ``offset`` is in elements of ``dtype`` (torch's name
    without ``torch.``). ``storage`` holds the whole storage's little-endian bytes: a slice of the body, no copy, unless
    the body is of protocol 2.
    """

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage: memoryview


@dataclass(frozen=True, kw_only=True)
class Module:
    """What a pickled module holds. Its class, which nobody imports, is not kept.

    ``tensors`` has the names and the order of ``state_dict()``. A tied weight appears under each of its names with the
    same view. What a class adds to its ``state_dict()`` by methods of its own is not here. ``steps`` is what the walk
    took of ``PickleLimits.steps``.
    """

    tensors: dict[str, TensorView]
    steps: int


def read_module(value: object, limits: PickleLimits | None = None, tick: Tick = unmetered) -> Module:
    """The module that ``value``, a node of a tree from :func:`flserver.wire.pickles.read`, stands for.

    Raises PickleRefused, with the tensor's or module's name in front, for what is not a module as torch pickles it, for
    tensors other than dense ones of the dtypes in :data:`flserver.wire.dtypes.DTYPES`, and for views that reach
    out of their storage.
    """
    return Walk(limits or PickleLimits(), tick).run(value)


class _Contents(NamedTuple):
    tensors: dict[str, TensorView]
    children: dict[str, object]


class Walk:
    """Reads one module, of which ``storages`` knows the files."""

    def __init__(self, limits: PickleLimits, tick: Tick) -> None:
        self._limits = limits
        self._tick = tick
        self._steps = self._told = 0
        self._characters = 0
        self.storages = StorageReader(limits, tick)
        # By identity: a tensor that a pickle refers to many times is one view. The tree keeps the ids alive.
        self._views: dict[int, TensorView] = {}

    def run(self, root: object) -> Module:
        root = self._inside(root)
        if type(root) is not Instance or type(root.cls) is not Name:
            hint = ": send the module itself, not its state_dict()" if type(root) is dict else ""
            raise PickleRefused(f"{described(root)} is not a module{hint}")
        tensors: dict[str, TensorView] = {}
        pending: list[tuple[str, object, int]] = [("", root, 0)]
        while pending:
            prefix, module, depth = pending.pop()
            if depth > self._limits.depth:
                raise PickleRefused(f"{quoted(prefix)}: modules nest deeper than {self._limits.depth}")
            own, children = self._read(self._inside(module), prefix)
            for name, view in own.items():
                tensors[self._full_name(prefix, name)] = view
            pending.extend(
                (self._full_name(prefix, name) + ".", child, depth + 1) for name, child in reversed(children.items())
            )
        return Module(tensors=tensors, steps=self._steps)

    def _inside(self, value: object) -> object:
        """The module that a wrapper is made with, where ``value`` is the call that makes it, else ``value`` itself.

        So ``torch.compile``'s is pickled, without the name that it puts before the others. Whose call it is does not
        matter: nothing is called, and what is inside has to be a module by itself.
        """
        if type(value) is not Call:
            return value
        self._step(len(value.arguments))  # a small pickle may name one call with many arguments many times
        modules = [part for part in value.arguments if type(part) is Instance and _has_parts(part.state)]
        return modules[0] if len(modules) == 1 else value

    def _step(self, count: int) -> None:
        self._steps += count
        if self._steps > self._limits.steps:
            raise PickleRefused("the module has too many parts")
        if self._steps - self._told >= _SLICE:
            self._tick((self._steps - self._told) * _PART)
            self._told = self._steps

    def _full_name(self, prefix: str, name: str) -> str:
        if not name or "." in name:
            raise PickleRefused(f"{quoted(prefix + name)}: torch has no such name")
        characters = len(prefix) + len(name)
        if characters > self._limits.name_length:
            raise PickleRefused(f"{quoted(prefix + name)}: a name of {characters} characters")
        self._characters += characters
        if self._characters > self._limits.names_length:
            raise PickleRefused("the module's names are too long together")
        return prefix + name

    def _read(self, module: object, prefix: str) -> _Contents:
        place = quoted(prefix[:-1]) + ": " if prefix else ""
        state = module.state if type(module) is Instance else None
        if type(state) is not dict:
            raise PickleRefused(f"{place}{described(module)} is not a module as torch pickles it")
        parameters, buffers, modules = (state.get(key) for key in ("_parameters", "_buffers", "_modules"))
        if type(parameters) is not dict or type(buffers) is not dict or type(modules) is not dict:
            raise PickleRefused(f"{place}{described(module)} lacks _parameters, _buffers or _modules")
        hidden = state.get("_non_persistent_buffers_set", [])
        if type(hidden) is not list:
            raise PickleRefused(f"{place}_non_persistent_buffers_set is not a set")
        self._step(1 + len(parameters) + len(buffers) + len(modules) + len(hidden))
        skipped = {name for name in hidden if type(name) is str}
        tensors: dict[str, TensorView] = {}
        for name, value in [*parameters.items(), *(item for item in buffers.items() if item[0] not in skipped)]:
            if value is None:
                continue
            if name in tensors:
                raise PickleRefused(f"{quoted(prefix + name)}: both a parameter and a buffer")
            try:
                tensors[name] = self._tensor(value)
            except PickleRefused as error:
                raise PickleRefused(f"{quoted(prefix + name)}: {error}") from error
        return _Contents(tensors, {name: child for name, child in modules.items() if child is not None})

    def _tensor(self, value: object) -> TensorView:
        """The view that ``value``, calls of torch's rebuilding functions around a storage, stands for."""
        view = self._views.get(id(value))
        if view is None:
            view = self._views[id(value)] = self._view(*_unwrapped(value))
        return view

    def _view(self, function: Name, arguments: tuple[object, ...]) -> TensorView:
        if function == _REBUILD_TENSOR_V2:
            # storage, offset, shape, stride, requires_grad, backward_hooks[, metadata]
            if len(arguments) not in (6, 7):
                raise PickleRefused(f"_rebuild_tensor_v2 with {len(arguments)} arguments")
            metadata = arguments[6] if len(arguments) == 7 else None
            if metadata is not None and not (type(metadata) is dict and not metadata):
                raise PickleRefused("a tensor with a conjugate or negative bit")
        elif function != _REBUILD_TENSOR or len(arguments) != 4:
            raise PickleRefused(f"a tensor made by {quoted(function.module)}.{quoted(function.qualname)} is not read")
        source, offset, shape, stride = arguments[:4]
        storage = self.storages.read(source)
        sizes, steps = self._extents(shape, "shape"), self._extents(stride, "stride")
        if len(sizes) != len(steps):
            raise PickleRefused(f"{len(sizes)} dimensions with {len(steps)} strides")
        if type(offset) is not int or not 0 <= offset <= storage.elements:
            raise PickleRefused("its offset is outside its storage")
        elements, last = 1, offset
        for size, step in zip(sizes, steps, strict=True):
            elements *= size
            last += (size - 1) * step
        # An expanded tensor (stride 0) may lie inside its storage and still claim any number of elements.
        if elements and (last >= storage.elements or elements > storage.elements):
            raise PickleRefused(f"a view of {quoted(str(sizes))} in a storage of {storage.elements} elements")
        # A tensor without elements lies in any storage, and a dimension of 1 has any stride; torch multiplies them.
        claimed = reach = DTYPES[storage.dtype].size
        for size, step in zip(sizes, steps, strict=True):
            claimed *= max(size, 1)
            reach += max(size, 1) * step * DTYPES[storage.dtype].size
        if claimed >= _SIZE_LIMIT or reach >= _SIZE_LIMIT:
            raise PickleRefused(f"a view of {quoted(str(sizes))} with strides {quoted(str(steps))}")
        return TensorView(dtype=storage.dtype, shape=sizes, stride=steps, offset=offset, storage=storage.data)

    def _extents(self, value: object, what: str) -> tuple[int, ...]:
        if type(value) is not tuple or len(value) > self._limits.dimensions:
            raise PickleRefused(f"its {what} is not a tuple of at most {self._limits.dimensions} numbers")
        if not all(type(number) is int and 0 <= number < _SIZE_LIMIT for number in value):
            raise PickleRefused(f"its {what} holds something else than sizes")
        return value


def _has_parts(state: object) -> bool:
    return type(state) is dict and "_modules" in state


def _unwrapped(value: object) -> tuple[Name, tuple[object, ...]]:
    """The function and the arguments of the tensor inside the parameter ``value``."""
    for _ in range(_TENSOR_WRAPPERS):
        if type(value) is not Call or type(value.function) is not Name:
            raise PickleRefused(f"{described(value)} is not a tensor")
        function, arguments = value.function, value.arguments
        if function == _REBUILD_FROM_TYPE:
            if len(arguments) != 4 or type(arguments[0]) is not Name or type(arguments[2]) is not tuple:
                raise PickleRefused("_rebuild_from_type_v2 with arguments that torch does not write")
            if type(arguments[1]) is not Name or arguments[1] not in _PLAIN_TYPES:
                raise PickleRefused(f"a tensor of a type of its own, {described(arguments[1])}, is not read")
            function, arguments = arguments[0], arguments[2]
        if function not in _REBUILD_PARAMETER:
            return function, arguments
        if len(arguments) != _REBUILD_PARAMETER[function]:
            raise PickleRefused(f"{function.qualname} with {len(arguments)} arguments")
        value = arguments[0]
    raise PickleRefused("parameters inside parameters")
