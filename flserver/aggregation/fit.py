"""What trainers hand back in other clothes than they were sent: wrapped models, and narrower or wider numbers."""

from collections.abc import Collection, Mapping

import torch

from flserver.events.words import rejected
from flserver.frozen import frozen
from flserver.models.state import State, state_over

SHOWN_LENGTH = 80  # characters of a name that a peer chose

WRAPPERS: Mapping[str, str] = {
    "_orig_mod": "torch.compile",
    "module": "DataParallel, DistributedDataParallel or AveragedModel",
    "_module": "Opacus",
    "_fsdp_wrapped_module": "FullyShardedDataParallel",
    "_forward_module": "Lightning Fabric",
    "parametrizations": "torch.nn.utils.parametrize",
}
"""The names that well-known wrappers put before those of the model inside, and whose they are."""


@frozen()
class Fit:
    """An update's tensors under the model's names, in the model's order, as they were sent.

    ``prefix`` is what a wrapper had put before each name; ``converting`` are the dtypes, other than the model's, that
    some of them are in.
    """

    tensors: State
    prefix: str
    converting: tuple[str, ...]

    @property
    def note(self) -> str | None:
        """What was done to make it fit, for the record; None where nothing was."""
        parts = [f"unwrapped: {self.prefix}"] if self.prefix else []
        parts += [f"converted: {', '.join(self.converting)}"] if self.converting else []
        return "; ".join(parts) or None


def fit(update: State, model: State, accept_dtypes: Collection[str]) -> Fit | str:
    """Match an update's tensors with the model's, or say why they do not fit: a reason that begins with its kind.

    A uniform prefix of the names is a wrapper's, and so are counters of its own beside it. Where the model has float32,
    the dtypes in ``accept_dtypes`` fit too.
    """
    unwrapped = _unwrapped(update, model)
    if unwrapped is None:
        return _other_names(update, model)
    prefix, tensors = unwrapped
    converting: set[str] = set()
    for name, sent in model.items():
        given = tensors[name]
        if given.shape != sent.shape:
            return rejected("shape", f"{name} is {list(given.shape)} where the model has {list(sent.shape)}")
        if given.dtype != sent.dtype:
            kind = _kind(given)
            if sent.dtype != torch.float32 or kind not in accept_dtypes:
                return rejected("dtype", f"{name} is {kind} where the model has {_kind(sent)}")
            converting.add(kind)
    return Fit(tensors, prefix, tuple(sorted(converting)))


def _kind(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _unwrapped(update: State, model: State) -> tuple[str, State] | None:
    """The prefix that all of the model's names have in the update, and the tensors without it; None where none has."""
    if list(update) == list(model):
        return "", dict(update)
    first = next(iter(model), "")
    for prefix in sorted({name[: -len(first)] for name in update if name.endswith(first)}, key=len):
        if prefix and not prefix.endswith("."):
            continue
        if all(prefix + name in update for name in model):
            extra = update.keys() - {prefix + name for name in model}
            if all(_is_wrappers_counter(name, update[name], prefix) for name in extra):
                return prefix, {name: update[prefix + name] for name in model}
    return None


def _is_wrappers_counter(name: str, tensor: torch.Tensor, prefix: str) -> bool:
    """Whether a tensor stands beside the model inside a wrapper and counts something, as AveragedModel's does."""
    place = name[: name.rfind(".") + 1]
    counts = tensor.numel() == 1 and not tensor.is_floating_point()
    return counts and place != prefix and prefix.startswith(place)


def _other_names(update: State, model: State) -> str:
    missing = [name for name in model if name not in update]
    extra = [name for name in update if name not in model]
    parts = [
        f"{what} {ascii(names[0])[:SHOWN_LENGTH]}" for what, names in (("lacks", missing), ("adds", extra)) if names
    ]
    wrappers = {whose: None for name in extra for part in name.split(".") if (whose := WRAPPERS.get(part))}
    hint = f"; is a part of it wrapped by {' and '.join(wrappers)}? Send the model inside" if wrappers else ""
    return rejected("names", f"the update {' and '.join(parts)}{hint}")


def converted(fitting: Fit, model: State, memory: memoryview) -> State:
    """The update in the model's dtypes: fresh tensors over ``memory``, which has room for ``state_bytes(model)``.

    Narrower numbers are exact, wider ones are rounded once; what is too large for the model's dtype is infinite.
    """
    state = state_over(memory, model)
    for name, tensor in fitting.tensors.items():
        state[name].copy_(tensor)
    return state
