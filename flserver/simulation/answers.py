"""What a simulated trainer sends back: the model that it was sent, with a small change or a lie, as pieces of a body.

Nothing is copied but the numbers that change: the pieces are views of the received body, which is never written to. No
sockets, and no torch.
"""

import ctypes
import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from flserver.errors import FlserverError
from flserver.simulation.script import Member
from flserver.wire.messages import wire_id
from flserver.wire.modules import TensorView
from flserver.wire.template import Template

Piece = bytes | memoryview
CHANGED = 64  # numbers of a tensor, at most, that an echo changes
LARGEST_CHANGE = 1e-3
HUGE = 1e30  # further than anybody trains
_FORMATS: Final = {"float64": "d", "float32": "f", "float16": "e"}
_SEARCHED = 4096  # bytes behind a storage's numbers, in which its tensor's shape stands


class CannotLie(FlserverError):
    """The model has no place for the lie."""


@dataclass(frozen=True)
class _Place:
    """``count`` numbers of a struct format that lie together, from ``at`` (bytes) in the body on."""

    at: int
    count: int
    format: str


class Model:
    """A received ``<MODEL>``, and where in its body what is changed."""

    def __init__(self, body: bytearray) -> None:
        """Raises PickleRefused where ``body`` holds no model."""
        self.template = Template(body)
        self._body = body
        self._begin = _address(memoryview(body))
        self._numbers = self._changeable()

    def answer(self, member: Member, round: int) -> list[Piece]:
        """The body with which ``member`` answers, but for what it may remember of earlier rounds. Raises CannotLie."""
        return lying(self, member, self.template.answer(id=wire_id(member.id)), self._changed(member.seed, round))

    def _changed(self, seed: int, round: int) -> tuple[int, bytes] | None:
        """A seeded small change: where, and what stands there then."""
        place = self._numbers
        if place is None:
            return None
        numbers = struct.unpack_from(f"<{place.count}{place.format}", self._body, place.at)
        drawn = struct.unpack(f"<{place.count}I", hashlib.shake_128(f"{seed}|{round}".encode()).digest(4 * place.count))
        moved = [number + LARGEST_CHANGE * (part / 2**31 - 1) for number, part in zip(numbers, drawn, strict=True)]
        return place.at, struct.pack(f"<{place.count}{place.format}", *moved)

    def with_number(self, number: float) -> tuple[int, bytes]:
        """Where a number of the model stands, and ``number`` in its form. Raises CannotLie."""
        if self._numbers is None or (self._numbers.format == "e" and math.isfinite(number)):
            raise CannotLie(f"the model has no number that could be {number:g}")
        return self._numbers.at, struct.pack(f"<{self._numbers.format}", number)

    def with_shape(self) -> tuple[int, bytes]:
        """Where the shape of a tensor stands, and one that is less by one in its first dimension. Raises CannotLie."""
        for view in self.template.module.tensors.values():
            if not view.shape or view.shape[0] < 2:
                continue
            behind = _address(view.storage) - self._begin + len(view.storage)
            first, written = _dimension(view.shape[0]), b"".join(map(_dimension, view.shape))
            at = self._body.find(written, behind, behind + _SEARCHED)
            if at >= 0:
                return at, first[:1] + (view.shape[0] - 1).to_bytes(len(first) - 1, "little")
        raise CannotLie("the model has no tensor whose shape could be another")

    def _changeable(self) -> _Place | None:
        for view in self.template.module.tensors.values():
            format = _FORMATS.get(view.dtype)
            elements: int = math.prod(view.shape)
            if format is not None and elements and len(view.storage):
                size = struct.calcsize(format)
                together = elements if _is_contiguous(view) else 1
                at = _address(view.storage) - self._begin + view.offset * size
                return _Place(at, min(CHANGED, together), format)
        return None


def lying(model: Model, member: Member, pieces: Sequence[Piece], change: tuple[int, bytes] | None) -> list[Piece]:
    """An answer's ``pieces`` with the member's lie in them, or else the ``change``."""
    match member.lie:
        case "nan":
            change = model.with_number(math.nan)
        case "huge":
            change = model.with_number(HUGE)
        case "shape":
            change = model.with_shape()
    return list(pieces) if change is None else spliced(pieces, *change)


def spliced(pieces: Sequence[Piece], at: int, new: bytes) -> list[Piece]:
    """``pieces`` with ``new`` written over the bytes from ``at`` on; they are as long as before."""
    found: list[Piece] = []
    end, begin = at + len(new), 0
    for piece in pieces:
        view, after = memoryview(piece), begin + len(piece)
        low, high = min(max(at, begin), after), min(max(end, begin), after)
        found += [
            view[: low - begin],
            memoryview(new)[low - at : high - at] if high > low else b"",
            view[high - begin :],
        ]
        begin = after
    return [piece for piece in found if len(piece)]


def _dimension(size: int) -> bytes:
    """As pickle writes it, in the shortest form."""
    if size < 2**8:
        return b"K" + size.to_bytes(1, "little")
    return b"M" + size.to_bytes(2, "little") if size < 2**16 else b"J" + size.to_bytes(4, "little")


def _is_contiguous(view: TensorView) -> bool:
    expected = 1
    for size, stride in zip(reversed(view.shape), reversed(view.stride), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))
