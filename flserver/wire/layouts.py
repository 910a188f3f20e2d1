"""Updates that are pickled as one before was, but for its numbers: read without the pickle machine, to the same result.

A fleet's trainers pickle the same module, round after round: what differs are the tensors' bytes, their storages' keys,
the client's id, and the numbers that it measured. Where those stand in a message, and what the machine made of it, is
its layout. A message of the same length that is the same outside of these places is the same message with other numbers
in it:

- the tensors' bytes are the end of a storage's file, which the machine steps over;
- a storage's key, which torch makes of an address, stands twice in its file, once in each of two pickles, and must be
  the same there; digits are nothing else to the machine;
- an id is such a place where it is an integer of fixed width, and the message is read as before with something in its
  stead that is refused wherever an integer is looked at;
- a float's value is looked at nowhere.

Everything else, above all what has a length, is compared byte by byte.
"""

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from flserver.errors import Refused
from flserver.wire.inert import PickleLimits, Tick
from flserver.wire.machine import Action, Machine
from flserver.wire.messages import Measurement, Update, decode_fields
from flserver.wire.modules import Module, TensorView, Walk
from flserver.wire.storages import File

MOST_FIXED: Final = 1 << 20  # bytes of a layout that are compared, and kept: ResNet-152's has 340 KiB
MOST_TENSORS: Final = 4096  # of a layout: shared modules give many names in few bytes
MOST: Final = 32  # layouts that are kept
MOST_BYTES: Final = 1 << 24  # that those take together
BYTES_A_TENSOR: Final = 1 << 10  # that a layout takes, beside what is compared
MISSES: Final = 16  # messages of no known layout for each that is learnt, beyond the first ``MOST``
CANDIDATES: Final = 4  # integers equal to the id that are tried
SHORTEST_FILE: Final = 64  # bytes: a storage's file has pickles of more
_CODED: Final = 0.5  # what a float that stands for a place has beyond it: no integer has that

_WIDTHS: Final[dict[bytes, tuple[int, bool]]] = {b"K": (1, False), b"M": (2, False), b"J": (4, True)}


@dataclass(frozen=True, slots=True)
class _Number:
    """An integer's argument in the body: where it stands, its bytes, and whether it has a sign."""

    at: int
    width: int
    signed: bool

    def read(self, body: memoryview) -> int:
        return int.from_bytes(body[self.at : self.at + self.width], "little", signed=self.signed)


@dataclass(frozen=True, slots=True)
class _View:
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


@dataclass(frozen=True)
class Layout:
    """What a message of one layout says, and where its numbers stand. ``rest`` are the slices between these places, and
    ``fixed`` their bytes; ``names`` has the place in ``views`` of each tensor, ``metrics`` a float's place or its
    value; ``keys`` are the two places of each storage's."""

    limits: PickleLimits
    length: int
    rest: tuple[slice, ...]
    fixed: bytes
    client_id: str | _Number
    names: tuple[tuple[str, int], ...]
    views: tuple[_View, ...]
    metrics: tuple[tuple[Measurement, int | None], ...]
    keys: tuple[tuple[slice, slice], ...]
    steps: int

    @property
    def weight(self) -> int:
        """About how many bytes it takes."""
        return len(self.fixed) + BYTES_A_TENSOR * len(self.names)

    def fits(self, body: memoryview) -> bool:
        """Whether a body of this ``length`` is a message of this layout."""
        if b"".join([body[part] for part in self.rest]) != self.fixed:
            return False
        return all((key := bytes(body[one])) == body[other] and key.isdigit() for one, other in self.keys)

    def read(self, body: memoryview) -> Update:
        """The message in a body that ``fits``."""
        views = [view.over(body) for view in self.views]
        return Update(
            client_id=self.client_id if isinstance(self.client_id, str) else str(self.client_id.read(body)),
            model=Module(tensors={name: views[which] for name, which in self.names}, steps=self.steps),
            metrics=tuple(_measured(body, metric, at) for metric, at in self.metrics),
        )


def _measured(body: memoryview, metric: Measurement, at: int | None) -> Measurement:
    if at is None:
        return metric
    return Measurement(name=metric.name, measured_on=metric.measured_on, value=struct.unpack_from(">d", body, at)[0])


class Layouts:
    """The layouts that were learnt last. For many threads, without a lock: what is known is replaced as a whole, and
    where two are learnt at the same time, one of both is learnt again."""

    def __init__(self) -> None:
        self.known: tuple[Layout, ...] = ()
        self._credit = MOST * MISSES
        self._learning = set[int]()  # the lengths of what is being learnt from: a fleet's first updates come together

    def recognise(self, body: memoryview, limits: PickleLimits) -> Update | None:
        """The message that reading ``body`` within ``limits`` gives, where one of its layout came before."""
        for layout in self.known:
            if layout.length == len(body) and layout.limits == limits and layout.fits(body):
                return layout.read(body)
        return None

    def learn(self, body: memoryview, update: Update, limits: PickleLimits, tick: Tick) -> None:
        """``body`` was read as ``update``, and of no known layout. ``tick`` is the reader's; raises what it does."""
        if self.recognise(body, limits) is not None or len(body) in self._learning:
            return
        self._credit = min(self._credit + 1, MOST * MISSES)
        if not _worth_it(body, update) or self._credit < MISSES:
            return
        self._credit -= MISSES
        self._learning.add(len(body))
        try:
            layout = layout_of(body, update, limits, tick)
        finally:
            self._learning.discard(len(body))
        if layout is not None:
            known = (*self.known, layout)[-MOST:]
            while sum(one.weight for one in known) > MOST_BYTES:
                known = known[1:]
            self.known = known


def _worth_it(body: memoryview, update: Update) -> bool:
    storages = {id(view.storage): view.storage.nbytes for view in update.model.tensors.values()}
    fixed = len(body) - sum(storages.values())
    return fixed <= MOST_FIXED and len(update.model.tensors) <= MOST_TENSORS


def layout_of(body: memoryview, update: Update, limits: PickleLimits, tick: Tick) -> Layout | None:
    """The layout of a body that is read as ``update``; None where it has none."""
    try:
        traced = _Traced(body, limits, tick, wanted=_integer(update.client_id))
        found = next((number for number in traced.numbers if traced.holds_without(number)), None)
    except Refused:
        return None
    holes = {(view.storage.start, view.storage.stop) for view in traced.views}
    holes |= {(at, at + 8) for _, at in traced.metrics if at is not None}
    holes |= {(key.start, key.stop) for pair in traced.keys for key in pair}
    holes |= {(found.at, found.at + found.width)} if found else set()
    rest, end = [], 0
    for start, stop in sorted(holes):
        if start < end:
            return None
        rest.append(slice(end, start))
        end = stop
    rest.append(slice(end, len(body)))
    return Layout(
        limits=limits,
        length=len(body),
        rest=tuple(rest),
        fixed=b"".join([body[part] for part in rest]),
        client_id=found or update.client_id,
        names=traced.names,
        views=traced.views,
        metrics=traced.metrics,
        keys=traced.keys,
        steps=traced.steps,
    )


class _Stead:
    """Stands for an integer, and is none to whoever looks."""


class _Tracing(Machine):
    """Reads as the machine does, but notes where integers and slices of the body stand, and gives floats that tell
    where theirs do. The integer at ``without`` is replaced."""

    def __init__(
        self, data: memoryview, limits: PickleLimits, tick: Tick, wanted: int | None, without: int | None
    ) -> None:
        super().__init__(data, limits, opcodes=limits.opcodes, tick=tick)
        self.numbers: list[_Number] = []  # the first ones that are ``wanted``
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

    def noted(self, width: int, signed: bool) -> None:
        number = _Number(self.position, width, signed)
        value = int.from_bytes(self.take(width), "little", signed=signed)
        if value == self._wanted and len(self.numbers) < CANDIDATES:
            self.numbers.append(number)
        self._push(_Stead() if number.at == self._without else value)

    def coded(self) -> None:
        self._push(self.position + _CODED)
        self.take(8)


def _noting(width: int, signed: bool) -> Action:
    return lambda machine: machine.noted(width, signed)  # type: ignore[attr-defined]


_Tracing.table = [*Machine.table]
for _opcode, (_width, _signed) in _WIDTHS.items():
    _Tracing.table[_opcode[0]] = _noting(_width, _signed)
_Tracing.table[ord("G")] = lambda machine: machine.coded()  # type: ignore[attr-defined]


class _Traced:
    """A body read again, with its places. Raises Refused, also for storages that are copies."""

    def __init__(
        self,
        body: memoryview,
        limits: PickleLimits,
        tick: Tick,
        wanted: int | None = None,
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
        self.numbers = machine.numbers  # where integers stand that may be the id
        walk = Walk(limits, tick)
        module = walk.run(fields["model"])
        self.steps = module.steps
        files = [(file, machine.start_of(file.whole)) for file in walk.storages.files]
        self.keys = tuple(pair for file, start in files if (pair := _key_places(file, start)) is not None)
        ends = {id(file.storage.data): start + len(file.whole) for file, start in files}
        places: dict[int, int] = {}
        views: list[_View] = []
        for view in module.tensors.values():
            if id(view) not in places:
                places[id(view)] = len(views)
                end = ends[id(view.storage)]
                storage = slice(end - view.storage.nbytes, end)
                views.append(_View(view.dtype, view.shape, view.stride, view.offset, storage))
        self.views = tuple(views)
        self.names = tuple((name, places[id(view)]) for name, view in module.tensors.items())
        self.metrics = tuple((metric, _place(metric.value)) for metric in update.metrics)

    def holds_without(self, number: _Number) -> bool:
        """Whether the integer at that place is the id, and all else is the same whatever it is."""
        try:
            other = _Traced(*self._given, without=number.at)
        except Refused:
            return False
        mine = (self.steps, self.views, self.names, self.metrics, self.keys)
        return other.whole and mine == (other.steps, other.views, other.names, other.metrics, other.keys)


def _integer(client_id: str) -> int | None:
    """The integer that is written so, if one is."""
    digits = client_id.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):  # of up to four bytes
        return None
    return number if str(number := int(client_id)) == client_id else None


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
