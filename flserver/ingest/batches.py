"""Batches as bytes and back: the one place where what nodes and desk say is put into bytes.

A batch is a length (8 bytes, big-endian), so many bytes of JSON, and then, each at a multiple of 64 bytes, what is no
JSON: tensors as they lie in memory. Nothing is read by plain pickle, and nothing that is read is a class's name beyond
the closed sets of ``questions`` and ``told``.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from flserver.errors import FlserverError
from flserver.ingest.questions import Answer, Question
from flserver.ingest.told import Bell, Fact

if TYPE_CHECKING:  # torch is not there yet when trainers register
    from flserver.models.state import State

HEAD = 8
ALIGNED = 64
Said = Question | Answer | Fact | Bell
KINDS: Mapping[str, type] = {kind.__name__: kind for kind in get_args(Said)}


class BatchError(FlserverError):
    """What came is no batch of this version's: the two ends are not of one kind."""


@dataclass(frozen=True)
class Item:
    """One thing that is said; ``number`` is that of the question, on a question and on its answer."""

    said: Said
    number: int | None = None


def to_bytes(items: Iterable[Item]) -> bytes:
    """A batch of these."""
    blobs: list[memoryview] = []

    def plain(value: Any) -> Any:
        if isinstance(value, memoryview):
            raw = value.cast("B") if value.nbytes else memoryview(b"")
            blobs.append(raw)
            return raw.nbytes
        return [getattr(value, field.name) for field in fields(value)]

    listed = [[type(item.said).__name__, item.number, item.said] for item in items]
    text = json.dumps(listed, separators=(",", ":"), default=plain).encode()
    if not blobs:
        return len(text).to_bytes(HEAD, "big") + text
    pieces: list[bytes | memoryview] = [len(text).to_bytes(HEAD, "big"), text]
    length = HEAD + len(text)
    for blob in blobs:
        pieces += [bytes(-length % ALIGNED), blob]
        length += -length % ALIGNED + blob.nbytes
    return b"".join(pieces)


def from_bytes(batch: bytes | memoryview) -> list[Item]:
    """What a batch says; its blobs are views of it. Raises BatchError."""
    view = memoryview(batch)
    try:
        at = HEAD + int.from_bytes(view[:HEAD], "big")
        listed = json.loads(bytes(view[HEAD:at]))
        place = _Place(view, at)
        return [Item(_reader(KINDS[kind])(values, place), number) for kind, number, values in listed]
    except (KeyError, ValueError, TypeError, IndexError, RecursionError) as error:
        raise BatchError(f"what came over the line is no batch: {error!r}") from error


@dataclass
class _Place:
    """Where the next blob of a batch begins."""

    view: memoryview
    at: int

    def take(self, size: int) -> memoryview:
        begin = self.at + -self.at % ALIGNED
        self.at = begin + size
        if self.at > len(self.view):
            raise ValueError("it ends early")
        return self.view[begin : self.at]


Reader = Callable[[Any, _Place], Any]


@cache
def _reader(kind: type) -> Reader:
    """What makes a value of that dataclass of the list of its fields."""
    hints, names = get_type_hints(kind), [field.name for field in fields(kind)]
    readers = [(place, reader) for place, name in enumerate(names) if (reader := _field(hints[name])) is not None]

    def read(values: list[Any], place: _Place) -> Any:
        for which, reader in readers:
            values[which] = reader(values[which], place)
        return kind(**dict(zip(names, values, strict=True)))

    return read


def _field(hint: Any) -> Reader | None:
    """What makes of a JSON value one of that type; None where it is that already."""
    if hint is memoryview:
        return lambda value, place: place.take(value)
    if get_origin(hint) is tuple:
        item = _field(get_args(hint)[0])
        if item is None:
            return lambda value, place: tuple(value)
        return lambda value, place: tuple(item(part, place) for part in value)
    if get_origin(hint) in (Union, UnionType):
        some = next(filter(None, (_field(option) for option in get_args(hint))), None)
        return some and (lambda value, place: None if value is None else some(value, place))
    if is_dataclass(hint) and isinstance(hint, type):
        return _reader(hint)
    return None


# --- tensors ---------------------------------------------------------------------------------------------------------


def raw_of(state: "State") -> tuple[memoryview, ...]:
    """The bytes of each tensor of a state whose layout the other end knows."""
    from flserver.models.state import raw_bytes

    return tuple(raw_bytes(tensor) if tensor.numel() else memoryview(b"") for tensor in state.values())


def state_like(layout: "State", blobs: Sequence[memoryview]) -> "State":
    """The state that ``raw_of`` gave, over the memory of the blobs. Raises BatchError where it has another layout."""
    import torch

    import flserver.models.state  # noqa: F401  # it has torch's warning of read-only memory behind it

    if [tensor.nbytes for tensor in layout.values()] != [blob.nbytes for blob in blobs]:
        raise BatchError("a model of another layout came over the line")
    return {
        name: torch.frombuffer(blob, dtype=like.dtype).view(like.shape)
        if blob.nbytes
        else torch.empty(like.shape, dtype=like.dtype)  # the layout may be one without numbers
        for (name, like), blob in zip(layout.items(), blobs, strict=True)
    }


def of_state(state: "State") -> tuple[memoryview, ...]:
    """A state, such as a saved sum, with its layout: the first blob says that as JSON."""
    head = [[name, str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in state.items()]
    return memoryview(json.dumps(head).encode()), *raw_of(state)


def to_state(blobs: Sequence[memoryview]) -> "State":
    """The state that ``of_state`` gave, over the memory of the blobs. Raises BatchError."""
    import torch

    try:
        head = json.loads(bytes(blobs[0]))
        layout = {name: torch.empty(shape, dtype=getattr(torch, dtype), device="meta") for name, dtype, shape in head}
    except (ValueError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise BatchError(f"what came over the line is no state: {error!r}") from error
    empty = {name: torch.empty(like.shape, dtype=like.dtype) for name, like in layout.items() if not like.numel()}
    return state_like({**layout, **empty}, blobs[1:])
