"""An update read again, to find where its numbers stand. :mod:`flserver.wire.layouts` says what may differ."""

from array import array
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from flserver.errors import Refused
from flserver.wire.inert import PickleLimits, Tick
from flserver.wire.machine import Action, Machine
from flserver.wire.messages import Update, decode_fields
from flserver.wire.modules import TensorView, Walk
from flserver.wire.pieces import HEAD, INTEGERS, Kind
from flserver.wire.storages import File

Mark = tuple[Kind, int, int]
"""What a piece of a message is, where it begins, and where it ends."""

CANDIDATES: Final = 4  # integers and texts equal to the id that are tried
SHORTEST_FILE: Final = 64  # bytes: a storage's file has pickles of more
_CODED: Final = 0.5  # what a float that stands for a place has beyond it: no integer has that
_BYTES: Final = ((b"C", 1), (b"B", 4))  # bytes of the length that goes before
_TEXTS: Final[dict[bytes, int]] = {b"\x8c": 1, b"X": 4}  # the same


@dataclass(frozen=True, slots=True)
class Number:
    """An integer's argument in the body: where it stands, and its bytes, which if they are four have a sign."""

    at: int
    width: int

    @property
    def marked(self) -> list[Mark]:
        return [(Kind.INTEGER, self.at - 1, self.at + self.width)]

    def moved(self, to: slice) -> "Number":
        return Number(to.start, to.stop - to.start)

    def read(self, body: memoryview) -> int:
        return int.from_bytes(body[self.at : self.at + self.width], "little", signed=self.width == 4)


@dataclass(frozen=True, slots=True)
class Text:
    """The same of a text, in UTF-8. ``counted`` is how many bytes before it hold its length."""

    at: int
    width: int
    counted: int

    @property
    def marked(self) -> list[Mark]:
        return _sized(slice(self.at, self.at + self.width), self.counted)

    def moved(self, to: slice) -> "Text":
        return Text(to.start, to.stop - to.start, self.counted)

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

    def moved(self, to: slice) -> "View":
        return View(self.dtype, self.shape, self.stride, self.offset, to)

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
        self.opcodes, self.heads = array("Q"), list[int]()  # where opcodes stand, and those of frames
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

    def integer(self, width: int) -> None:
        place = Number(self.position, width)
        self.take(width)
        self._push(place.read(self._data))
        self._noted(place)

    def text(self, width: int) -> None:
        count = self._uint(width)
        place = Text(self.position, count, width)
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

    def frame(self) -> None:
        self.heads.append(self.position - 1)
        self._frame()

    def coded(self) -> None:
        self._push(self.position + _CODED)
        self.take(8)


def _integer(width: int) -> Action:
    return lambda machine: machine.integer(width)  # type: ignore[attr-defined]


def _text(width: int) -> Action:
    return lambda machine: machine.text(width)  # type: ignore[attr-defined]


def _noted(action: Action) -> Action:
    def noted(machine: Machine) -> None:
        machine.opcodes.append(machine.position - 1)  # type: ignore[attr-defined]
        action(machine)

    return noted


_ACTIONS: Final[dict[int, Action]] = {
    **{opcode[0]: _integer(width) for opcode, width in INTEGERS.items()},
    **{opcode[0]: _text(width) for opcode, width in _TEXTS.items()},
    ord("G"): lambda machine: machine.coded(),  # type: ignore[attr-defined]
    0x95: lambda machine: machine.frame(),  # type: ignore[attr-defined]
}
_Tracing.table = [action and _noted(_ACTIONS.get(opcode, action)) for opcode, action in enumerate(Machine.table)]


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
        self.opcodes, self.spare = machine.opcodes, machine.opcodes_left
        self.marked = [(Kind.FRAME, at, at + HEAD) for at in machine.heads]
        for file, start in files:
            self.marked += _marked(body, file, start)
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
        self.marked += [(Kind.HOLE, at, at + 8) for _, at in self.metrics if at is not None]

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


def _marked(body: memoryview, file: File, start: int) -> list[Mark]:
    """What is not fixed of a file that begins at ``start``: its numbers, and its key, where it has one."""
    end = start + len(file.whole)
    marked = [(Kind.HOLE, end - file.storage.data.nbytes, end)]
    if (keys := _key_places(file, start)) is None:
        return marked
    head = bytes(file.whole[: file.pickles[-1]])
    # As torch and pickle write it: no frames in the file, and lengths that may become others
    begins = [start - 1 - width for code, width in _BYTES if _counts(body, start, code, width, len(file.whole))]
    usual = all(_counts(body, key.start, b"X", 4, key.stop - key.start) for key in keys)
    if not begins or not usual or 0x95 in head:
        return marked + [(Kind.HOLE, key.start, key.stop) for key in keys]
    ends = start + len(head)
    return [*marked, (Kind.FILE, begins[0], start), *_sized(keys[0], 4), *_sized(keys[1], 4), (Kind.END, ends, ends)]


def _counts(body: memoryview, at: int, opcode: bytes, width: int, count: int) -> bool:
    """Whether it is this opcode, with a length of ``width`` bytes, that has the ``count`` bytes from ``at`` on. No
    other one ends in the same bytes: where its own length stands there would be another number."""
    return count < 1 << 8 * width and body[at - 1 - width : at] == opcode + count.to_bytes(width, "little")


def _sized(place: slice, counted: int) -> list[Mark]:
    return [(Kind.LENGTH, place.start - counted, place.start), (Kind.SIZED, place.start, place.stop)]


def _place(value: float) -> int | None:
    return None if value.is_integer() else int(value)
