"""An update read again, to find where its numbers stand. :mod:`flserver.wire.layouts` says what may differ."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from flserver.errors import Refused
from flserver.wire.inert import PickleLimits, Tick
from flserver.wire.machine import Action, Machine
from flserver.wire.messages import Update, decode_fields
from flserver.wire.modules import TensorView, Walk
from flserver.wire.storages import File

CANDIDATES: Final = 4  # integers and texts equal to the id that are tried
SHORTEST_FILE: Final = 64  # bytes: a storage's file has pickles of more
_CODED: Final = 0.5  # what a float that stands for a place has beyond it: no integer has that
_INTEGERS: Final[dict[bytes, tuple[int, bool]]] = {b"K": (1, False), b"M": (2, False), b"J": (4, True)}
_TEXTS: Final[dict[bytes, int]] = {b"\x8c": 1, b"X": 4}  # bytes of the length that goes before


@dataclass(frozen=True, slots=True)
class Number:
    """An integer's argument in the body: where it stands, its bytes, and whether it has a sign."""

    at: int
    width: int
    signed: bool

    def read(self, body: memoryview) -> int:
        return int.from_bytes(body[self.at : self.at + self.width], "little", signed=self.signed)


@dataclass(frozen=True, slots=True)
class Text:
    """The same of a text, in UTF-8."""

    at: int
    width: int

    def read(self, body: memoryview) -> str:
        """Raises UnicodeDecodeError."""
        return str(body[self.at : self.at + self.width], "utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class View:
    """A tensor's geometry, and where its storage's bytes stand in the body."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage: slice

    def over(self, body: memoryview) -> TensorView:
        return TensorView(
            dtype=self.dtype, shape=self.shape, stride=self.stride, offset=self.offset, storage=body[self.storage]
        )


class _Stead:
    """Stands for an integer or a text, and is none to whoever looks."""


class _Tracing(Machine):
    """Reads as the machine does, but notes where what may be the id and slices of the body stand, and gives floats that
    tell where theirs do. The integer or text at ``without`` is replaced, and must be used once."""

    def __init__(
        self, data: memoryview, limits: PickleLimits, tick: Tick, wanted: str | None, without: int | None
    ) -> None:
        super().__init__(data, limits, opcodes=limits.opcodes, tick=tick)
        self.ids: list[Number | Text] = []  # the first ones that are ``wanted``
        self._taken: dict[int, tuple[memoryview, int]] = {}  # by identity; kept, so that no other one has it
        self._wanted, self._without = wanted, without

    def take(self, count: int) -> memoryview:
        start, part = self.position, super().take(count)
        if count >= SHORTEST_FILE:  # what else is taken is nobody's to ask for, and would be kept for each opcode
            self._taken[id(part)] = part, start
        return part

    def start_of(self, part: memoryview) -> int:
        """Where ``part`` begins in the body. Raises Refused where it is no slice that was taken from there."""
        if id(part) not in self._taken:
            raise Refused("a storage that is no slice of the body")
        return self._taken[id(part)][1]

    def integer(self, width: int, signed: bool) -> None:
        place = Number(self.position, width, signed)
        self._push(int.from_bytes(self.take(width), "little", signed=signed))
        self._noted(place)

    def text(self, width: int) -> None:
        count = self._uint(width)
        place = Text(self.position, count)
        self._text(count)
        self._noted(place)

    def _noted(self, place: Number | Text) -> None:
        """What stands at ``place`` was pushed."""
        if str(self._stack[-1]) == self._wanted and len(self.ids) < CANDIDATES:
            self.ids.append(place)
        if place.at == self._without:
            self._stack[-1] = _Stead()

    def _get(self, index: int) -> None:
        """Else a text could be a key of a dict, or another part of the message, as well."""
        super()._get(index)
        if type(self._stack[-1]) is _Stead:
            raise Refused("used twice")

    def coded(self) -> None:
        self._push(self.position + _CODED)
        self.take(8)


def _integer(width: int, signed: bool) -> Action:
    return lambda machine: machine.integer(width, signed)  # type: ignore[attr-defined]


def _text(width: int) -> Action:
    return lambda machine: machine.text(width)  # type: ignore[attr-defined]


_Tracing.table = [*Machine.table]
for _opcode, (_width, _signed) in _INTEGERS.items():
    _Tracing.table[_opcode[0]] = _integer(_width, _signed)
for _opcode, _width in _TEXTS.items():
    _Tracing.table[_opcode[0]] = _text(_width)
_Tracing.table[ord("G")] = lambda machine: machine.coded()  # type: ignore[attr-defined]


class Traced:
    """A body read again, with its places. Raises Refused, also for storages that are copies."""

    def __init__(
        self,
        body: memoryview,
        limits: PickleLimits,
        tick: Tick,
        wanted: str | None = None,
        without: int | None = None,
    ) -> None:
        self._given = body, limits, tick
        machine = _Tracing(body, limits, tick, wanted, without)
        fields = machine.load()
        if type(fields) is not dict or machine.position != len(body):
            raise Refused("not a message")
        self.whole = without is None or isinstance(fields.get("id"), _Stead)
        update = decode_fields(fields | ({} if without is None else {"id": 0}), pickles=limits, tick=tick)
        if type(update) is not Update:
            raise Refused("not an update")
        self.ids = machine.ids  # where something stands that may be the id
        walk = Walk(limits, tick)
        module = walk.run(fields["model"])
        self.steps = module.steps
        files = [(file, machine.start_of(file.whole)) for file in walk.storages.files]
        self.keys = tuple(pair for file, start in files if (pair := _key_places(file, start)) is not None)
        ends = {id(file.storage.data): start + len(file.whole) for file, start in files}
        places: dict[int, int] = {}
        views: list[View] = []
        for view in module.tensors.values():
            if id(view) not in places:
                places[id(view)] = len(views)
                end = ends[id(view.storage)]
                storage = slice(end - view.storage.nbytes, end)
                views.append(View(view.dtype, view.shape, view.stride, view.offset, storage))
        self.views = tuple(views)
        self.names = tuple((name, places[id(view)]) for name, view in module.tensors.items())
        self.metrics = tuple((metric, _place(metric.value)) for metric in update.metrics)

    def holds_without(self, place: Number | Text) -> bool:
        """Whether what stands there is the id, and all else is the same whatever it is."""
        try:
            other = Traced(*self._given, without=place.at)
        except Refused:
            return False
        mine = (self.steps, self.views, self.names, self.metrics, self.keys)
        return other.whole and mine == (other.steps, other.views, other.names, other.metrics, other.keys)


def _key_places(file: File, start: int) -> tuple[slice, slice] | None:
    """Where the key of the storage stands in the body, twice, in a file that begins at ``start``; None where that is
    not so, and it is compared with all else."""
    key, found = file.key.encode("utf-8", "surrogatepass"), []
    if not key.isdigit():
        return None
    for begin, end in pairwise(file.pickles):
        named = bytes(file.whole[begin:end])
        at = named.find(key)
        if at < 0 or named.find(key, at + 1) >= 0:
            return None
        found.append(slice(start + begin + at, start + begin + at + len(key)))
    return found[0], found[1]


def _place(value: float) -> int | None:
    return None if value.is_integer() else int(value)
