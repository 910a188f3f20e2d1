"""Models of every architecture without their numbers: the same modules and tensors, of an element or a few each."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

MAKERS = (torch.empty, torch.zeros, torch.ones, torch.randn, torch.rand, torch.full)


class Tiny(TorchFunctionMode):
    """While it is entered, what torch makes from a shape has one element, in as many dimensions."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if function in MAKERS:
            rest: Sequence[Any]
            if function is torch.full or (args and not isinstance(args[0], int)):
                shape, *rest = args or (named.pop("size"),)
            else:
                shape, rest = args or named.pop("size"), ()
            args = ([1] * len(shape), *rest)
        return function(*args, **named)
