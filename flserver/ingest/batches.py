"""Batches as bytes and back: the one place where what nodes and desk say is put into bytes.

A batch is a length (8 bytes, big-endian), so many bytes of JSON, and then, each at a multiple of 64 bytes, what is no
JSON: tensors as they lie in memory. Nothing is read by plain pickle, and nothing that is read is a class's name beyond
the closed sets of ``questions`` and ``told``.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from operator import attrgetter
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from flserver.errors import FlserverError
from flserver.frozen import frozen
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


@frozen()
class Item:
    """One thing that is said; ``number`` is that of the question, on a question and on its answer."""

    said: Said
    number: int | None = None


_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def to_bytes(items: Iterable[Item]) -> bytes:
    """A batch of these."""
    blobs: list[memoryview] = []
    listed = []
    for item in items:
        said: Any = item.said
        kind: Any = type(said)
        listed.append((kind.__name__, item.number, _form(kind).write(said, blobs)))
    text = _json(listed).encode()
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
        listed = json.loads(str(view[HEAD:at], "utf-8"))
        place = _Place(view, at)
        return [Item(_form(KINDS[kind]).read(values, place), number) for kind, number, values in listed]
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


# --- what a class is as JSON, found out once -------------------------------------------------------------------------

Write = Callable[[Any, list[memoryview]], Any]
Read = Callable[[Any, _Place], Any]


@dataclass(frozen=True, slots=True)
class _Form:
    """How a value of one type becomes one that JSON has, and back. Blobs go behind the others, and are the next."""

    write: Write
    read: Read


@cache
def _form(kind: type) -> _Form:
    """That of a dataclass, which is the list of its fields."""
    hints, known = get_type_hints(kind), fields(kind)
    names = [field.name for field in known]
    forms = [(place, form) for place, name in enumerate(names) if (form := _form_of(hints[name])) is not None]
    values_of = _values_of(names)
    by_name = any(field.kw_only for field in known)

    def write(value: Any, blobs: list[memoryview]) -> Any:
        if not forms:
            return values_of(value)
        values = list(values_of(value))
        for which, form in forms:
            values[which] = form.write(values[which], blobs)
        return values

    def read(values: Any, place: _Place) -> Any:
        if type(values) is not list or len(values) != len(names):
            raise ValueError(f"{values!r} is no {kind.__name__}")
        for which, form in forms:
            values[which] = form.read(values[which], place)
        return kind(**dict(zip(names, values, strict=True))) if by_name else kind(*values)

    return _Form(write, read)


def _values_of(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """What gives the fields of these names."""
    if not names:
        return lambda value: ()
    get = attrgetter(*names)
    return get if len(names) > 1 else lambda value: (get(value),)


def _form_of(hint: Any) -> _Form | None:
    """That of a field which is declared so; None where JSON has it as it is."""
    if hint is memoryview:
        return _Form(_put_behind, lambda size, place: place.take(size))
    if get_origin(hint) is tuple:
        item = _form_of(get_args(hint)[0])
        if item is None:
            return _Form(lambda value, blobs: value, lambda value, place: tuple(value))
        return _Form(
            lambda value, blobs: [item.write(part, blobs) for part in value],
            lambda value, place: tuple([item.read(part, place) for part in value]),
        )
    if get_origin(hint) in (Union, UnionType):
        some = next(filter(None, map(_form_of, get_args(hint))), None)
        return some and _Form(
            lambda value, blobs: None if value is None else some.write(value, blobs),
            lambda value, place: None if value is None else some.read(value, place),
        )
    return _form(hint) if isinstance(hint, type) and is_dataclass(hint) else None


def _put_behind(blob: memoryview, blobs: list[memoryview]) -> int:
    blobs.append(blob.cast("B") if blob.nbytes else memoryview(b""))
    return blob.nbytes


# --- tensors ---------------------------------------------------------------------------------------------------------


def layout_digest(state: "State", tied: Mapping[str, str], buffers: Collection[str]) -> str:
    """``sha256:hex`` of all by which two ends take each other's bytes for the same tensors: names, dtypes and shapes in
    their order, which of them share memory, and which are no parameters."""
    tensors = [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in state.items()]
    text = json.dumps([tensors, sorted(tied.items()), sorted(buffers)])
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


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
