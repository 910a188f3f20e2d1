"""What of a model plain pickle carries, which is how trainers read it: the parts that it does not, and the hooks.

Whether hooks come back is only known by doing it, so a model that has some is read back once, at start, in a scratch
process (``models/read_back.py``): our own bytes, of the operator's own model.
"""

import contextlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from flserver.errors import UsageError, one_line
from flserver.wire.template import why_not_pickled

Hooks = dict[str, list[str]]  # lists and text, so that it is the same after JSON
"""By place (``0.forward_pre_hooks``, ``fc.weight.backward_hooks``): what each hook is, in the order of their turn."""

READ_BACK = "flserver.models.read_back"
DEPTH = 10  # things inside things of a hook that are looked at
READ_BACK_SECONDS = 600.0  # torch is imported, and the operator's own modules


def hooks_of(module: nn.Module) -> Hooks:
    """The hooks of the module, of the modules in it, and of their tensors. Two modules whose hooks do the same have
    equal ones."""
    teller = _Teller(module)
    return {place: [teller.tell(hook) for hook in hooks.values()] for place, hooks in _hook_dicts(module)}


def _hook_dicts(module: nn.Module) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    for name, part in module.named_modules():
        holders: list[tuple[str, object]] = [(name, part)]
        tensors = {**part._parameters, **part._buffers}
        holders += [(_joined(name, key), tensor) for key, tensor in tensors.items() if tensor is not None]
        for place, holder in holders:
            for attribute, hooks in vars(holder).items() if holder is part else _tensor_hooks(holder):
                if "_hooks" in attribute and isinstance(hooks, Mapping) and hooks:
                    yield _joined(place, attribute.strip("_")), hooks


def _tensor_hooks(tensor: object) -> Iterator[tuple[str, object]]:
    """torch keeps those in slots, which ``vars`` does not show."""
    for attribute in ("_backward_hooks", "_post_accumulate_grad_hooks"):
        yield attribute, getattr(tensor, attribute, None)


def _joined(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


class _Teller:
    """Says what the hooks of a model are, and what they hold as far as pickle writes it, in names and plain values."""

    def __init__(self, module: nn.Module) -> None:
        self._names = {id(part): name for name, part in module.named_modules()}
        self._told: dict[int, object] = {}  # each is told once; kept, so that no other object gets its id

    def tell(self, value: object, depth: int = DEPTH) -> str:
        if value is None or isinstance(value, str | bytes | int | float | complex):
            return repr(value)
        if id(value) in self._names:
            return f"the module {self._names[id(value)]!r}"
        if inspect.ismethod(value):
            return f"{value.__func__.__qualname__} of {self.tell(value.__self__, depth)}"
        if hasattr(value, "__qualname__"):
            return f"{value.__module__}.{value.__qualname__}"
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if isinstance(value, Tensor):
            return f"{kind}({value.dtype}, {list(value.shape)})"
        if depth == 0 or id(value) in self._told:
            return kind
        self._told[id(value)] = value
        return f"{kind}({', '.join(self._contents(value, depth - 1))})"

    def _contents(self, value: object, depth: int) -> Iterator[str]:
        if isinstance(value, dict):
            yield from (f"{key}={self.tell(item, depth)}" for key, item in value.items())
        elif isinstance(value, list | tuple):
            yield from (self.tell(item, depth) for item in value)
        elif isinstance(value, set | frozenset):  # whose order is another one in each process
            yield from sorted(self.tell(item, depth) for item in value)
        else:
            with contextlib.suppress(Exception):  # what cannot be pickled is told elsewhere
                yield self.tell(value.__reduce_ex__(4), depth)


def what_is_not_pickled(module: nn.Module) -> str | None:
    """The innermost part of ``module`` that cannot be pickled, and why; None where each can."""
    for name, part in reversed(list(module.named_modules())):
        for attribute, value in vars(part).items():
            if attribute == "_modules":
                continue
            for piece in value.values() if "_hooks" in attribute and isinstance(value, Mapping) else [value]:
                if (error := why_not_pickled(piece)) is not None:
                    kept = "" if piece is value else f" {_named(_Teller(part).tell(piece))}"
                    return f"{_joined(name, attribute.strip('_'))}{kept}: {one_line(error)}"
        if (error := why_not_pickled(part)) is not None:
            return f"{name or 'the model'} ({type(part).__name__}): {one_line(error)}"
    return None


def check_survival(module: nn.Module, body: bytes | bytearray | memoryview, what: str) -> None:
    """Read back ``body``, the pickled message with the model ``module``, as a trainer does, and compare the hooks.

    Raises UsageError, one line that begins with ``what``, where one of them is not what it was, naming it.
    """
    before = hooks_of(module)
    after, tensors = _read_back(body, f"{what} has hooks ({', '.join(before)})")
    if tensors != list(module.state_dict()):
        raise UsageError(f"{what}: read back by plain pickle, its state_dict() has other names than before")
    for place, hooks in before.items():
        left = after.get(place, [])
        for number, hook in enumerate(hooks):
            if hook not in left[number : number + 1]:
                raise UsageError(
                    f"{what}: {place} {_named(hook)} does not survive plain pickle, which is how trainers read it"
                )
    for place, hooks in after.items():
        if hooks != before.get(place):
            raise UsageError(f"{what}: read back by plain pickle, it has {place} {_named(hooks[-1])} more than before")


def _named(hook: str) -> str:
    """What a described hook is, without what it holds."""
    return hook.partition("(")[0]


def _read_back(body: bytes | bytearray | memoryview, what: str) -> tuple[Hooks, list[str]]:
    """The hooks and the names of the tensors of the model in ``body`` where a trainer would have it."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", READ_BACK],
            input=body,
            capture_output=True,
            env=environment,
            timeout=READ_BACK_SECONDS,
            start_new_session=True,  # Ctrl-C is the server's to hear
        )
        if done.returncode == 0:
            hooks, tensors = json.loads(done.stdout)
            return hooks, tensors
        said = done.stderr.decode(errors="replace").strip().splitlines()
        reason = said[-1] if said else f"exit code {done.returncode}"
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        reason = one_line(error)
    raise UsageError(f"{what}, and cannot be read back by plain pickle, which is how trainers read it: {reason}")
