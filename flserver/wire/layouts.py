"""Updates that are pickled as one before was, but for its numbers: read without the pickle machine, to the same result.

A fleet's trainers pickle the same module, round after round: what differs are the tensors' bytes, their storages' keys,
the client's id, and the numbers that it measured. Where those stand in a message, and what the machine made of it, is
its layout. A message that is the same outside of these places is the same message with other numbers in it:

- the tensors' bytes are the end of a storage's file, which the machine steps over;
- a storage's key, which torch makes of an address, stands twice in its file, once in each of two pickles, and must be
  the same there; digits are nothing else to the machine;
- an id is such a place where it is an integer or a text that is used once, and the message is read as before with
  something in its stead that is neither;
- a float's value is looked at nowhere.

Everything else is compared byte by byte, where they all stand in the same places; where a key or an id has another
length, :mod:`flserver.wire.pieces` looks for them.
"""

import struct
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from flserver.errors import MessageRefused, Refused
from flserver.wire.inert import PickleLimits, Tick, unmetered
from flserver.wire.messages import Measurement, Update, read_client_id
from flserver.wire.modules import Module
from flserver.wire.pieces import Kind, Pieces, frames_of
from flserver.wire.tracing import Number, Text, Traced, View

MOST_FIXED: Final = 1 << 20  # bytes of a layout that are compared, and kept: ResNet-152's has 340 KiB
MOST_TENSORS: Final = 4096  # of a layout: shared modules give many names in few bytes
MOST: Final = 32  # layouts that are kept
MOST_BYTES: Final = 1 << 25  # that those take together
SHARES: Final = 4  # of both: an owner has one, so that who sends always something else leaves the others theirs
BYTES_A_PIECE, BYTES_A_NAME = 256, 512  # that a layout takes, beside what is compared
MISSES: Final = 16  # an owner's messages of no known layout for each that is learnt
MOST_CREDIT: Final = MOST // SHARES * MISSES  # and beyond its first ones
MOST_OWNERS: Final = 1 << 14  # whose messages are counted


@dataclass(frozen=True)
class Reading:
    """What messages of one layout say, and where their numbers stand in one of them. ``names`` has the place in
    ``views`` of each tensor, ``metrics`` a float's place or its value."""

    client_id: str | Number | Text
    names: tuple[tuple[str, int], ...]
    views: tuple[View, ...]
    metrics: tuple[tuple[Measurement, int | None], ...]
    keys: tuple[tuple[slice, slice], ...]
    """The two places of each storage's."""
    steps: int

    def moved(self, to: Mapping[int, slice]) -> "Reading":
        """For a message where they stand elsewhere, by where they begin in this one."""
        client_id = self.client_id
        return Reading(
            client_id=client_id if isinstance(client_id, str) else client_id.moved(to[client_id.at]),
            names=self.names,
            views=tuple(view.moved(to[view.storage.start]) for view in self.views),
            metrics=tuple((metric, None if at is None else to[at].start) for metric, at in self.metrics),
            keys=tuple((to[one.start], to[other.start]) for one, other in self.keys),
            steps=self.steps,
        )

    def has_keys(self, body: memoryview) -> bool:
        """Whether keys are digits, and the same where they are the same storage's."""
        return all((key := bytes(body[one])) == body[other] and key.isdigit() for one, other in self.keys)

    def update(self, body: memoryview) -> Update:
        """The message. Raises MessageRefused, UnicodeDecodeError where what is said to be an id is none."""
        views = [view.over(body) for view in self.views]
        client_id = self.client_id if isinstance(self.client_id, str) else self.client_id.read(body)
        return Update(
            client_id=read_client_id(client_id),
            model=Module(tensors={name: views[which] for name, which in self.names}, steps=self.steps),
            metrics=tuple(_measured(body, metric, at) for metric, at in self.metrics),
        )


@dataclass(frozen=True, eq=False)
class Layout:
    """Messages that are alike. ``rest`` are the slices between the places of one that is ``length`` bytes long, and
    ``fixed`` their bytes; ``pieces`` finds these places in longer and shorter ones. It is kept in the share of
    ``owner``."""

    limits: PickleLimits
    length: int
    rest: tuple[slice, ...]
    fixed: bytes
    pieces: Pieces
    reading: Reading
    owner: Hashable = None

    @property
    def weight(self) -> int:
        """About how many bytes it takes."""
        return 2 * len(self.fixed) + BYTES_A_PIECE * len(self.pieces) + BYTES_A_NAME * len(self.reading.names)

    def within(self, limits: PickleLimits) -> bool:
        """Whether it was read within these."""
        return self.limits is limits or self.limits == limits

    def fits(self, body: memoryview) -> Reading | None:
        """How a body is read, if it is a message of this layout with everything in the same place."""
        if len(body) != self.length or b"".join([body[part] for part in self.rest]) != self.fixed:
            return None
        return self.reading if self.reading.has_keys(body) else None

    def found(self, body: memoryview, frames: Sequence[int]) -> Reading | None:
        """The same for one of any length, whose ``frames`` begin there; it takes longer."""
        to = self.pieces.find(body, frames)
        if to is None:
            return None
        reading = self.reading.moved(to)
        return reading if reading.has_keys(body) else None


def _measured(body: memoryview, metric: Measurement, at: int | None) -> Measurement:
    if at is None:
        return metric
    return Measurement(name=metric.name, measured_on=metric.measured_on, value=struct.unpack_from(">d", body, at)[0])


class Layouts:
    """The layouts that are kept, the one that was used last at the end. For many threads, without a lock: what is known
    is replaced as a whole, and where two replace it in the same moment, one that was learnt then is learnt again."""

    def __init__(self) -> None:
        self.known: tuple[Layout, ...] = ()
        self._credit: dict[Hashable, int] = {}  # of owners
        self._learning = set[int]()  # the lengths of what is being learnt from: a fleet's first updates come together

    def recognise(self, body: memoryview, limits: PickleLimits, but: Sequence[Layout] = ()) -> Update | None:
        """The message that reading ``body`` within ``limits`` gives, where one of its layout came before. It is known
        to be of none of ``but``."""
        layouts = [layout for layout in reversed(self.known) if layout not in but]
        for layout in layouts:
            if layout.length == len(body) and layout.within(limits) and (reading := layout.fits(body)) is not None:
                return self._read(layout, reading, body)
        frames = frames_of(body) if layouts else ()
        for layout in layouts:
            if layout.within(limits) and (reading := layout.found(body, frames)) is not None:
                return self._read(layout, reading, body)
        return None

    def _read(self, layout: Layout, reading: Reading, body: memoryview) -> Update | None:
        known = self.known  # as it is by now
        if known[-1] is not layout and layout in known:
            self.known = (*(one for one in known if one is not layout), layout)
        try:
            return reading.update(body)
        except (MessageRefused, UnicodeDecodeError):
            return None  # the machine says it, with its reasons

    def learn(
        self,
        body: memoryview,
        update: Update,
        limits: PickleLimits,
        owner: Hashable,
        tick: Tick = unmetered,
        but: Sequence[Layout] = (),
    ) -> None:
        """``body`` was read as ``update``, and is of none of ``but``. ``owner`` is whoever answers for it. ``tick`` is
        the reader's; raises what it does."""
        if self.recognise(body, limits, but) is not None or len(body) in self._learning:
            return
        if len(self._credit) > MOST_OWNERS:
            self._credit.clear()
        credit = min(self._credit.get(owner, MOST_CREDIT) + 1, MOST_CREDIT)
        worth_it = _worth_it(body, update) and credit >= MISSES
        self._credit[owner] = credit - MISSES if worth_it else credit
        if not worth_it:
            return
        self._learning.add(len(body))
        try:
            layout = layout_of(body, update, limits, tick)
        finally:
            self._learning.discard(len(body))
        if layout is not None:
            self.known = _within_bounds([*self.known, replace(layout, owner=owner)])


def _within_bounds(known: list[Layout]) -> tuple[Layout, ...]:
    """Without those that are too many for the last one's owner, or for all: whichever were not used for longest."""
    own = [layout for layout in known if layout.owner == known[-1].owner]
    while len(own) > MOST // SHARES or _weight(own) > MOST_BYTES // SHARES:
        known.remove(own.pop(0))
    while len(known) > MOST or _weight(known) > MOST_BYTES:
        known.pop(0)
    return tuple(known)


def _weight(layouts: Iterable[Layout]) -> int:
    return sum(layout.weight for layout in layouts)


def _worth_it(body: memoryview, update: Update) -> bool:
    storages = {id(view.storage): view.storage.nbytes for view in update.model.tensors.values()}
    fixed = len(body) - sum(storages.values())
    return fixed <= MOST_FIXED and len(update.model.tensors) <= MOST_TENSORS


def layout_of(body: memoryview, update: Update, limits: PickleLimits, tick: Tick) -> Layout | None:
    """The layout of a body that is read as ``update``; None where it has none."""
    try:
        traced = Traced(body, limits, tick, wanted=update.client_id)
        found = next((place for place in traced.ids if traced.holds_without(place)), None)
    except Refused:
        return None
    marked = [*traced.marked, *(found.marked if found else ())]
    holes = {(start, stop) for kind, start, stop in marked if kind in (Kind.HOLE, Kind.SIZED)}
    holes |= {(start + 1, stop) for kind, start, stop in marked if kind is Kind.INTEGER}
    rest, end = [], 0
    for start, stop in sorted(holes):
        rest.append(slice(end, start))
        end = stop
    rest.append(slice(end, len(body)))
    try:
        pieces = Pieces(body, marked, traced.opcodes, traced.spare, limits)
    except ValueError:
        return None
    return Layout(
        limits=limits,
        length=len(body),
        rest=tuple(rest),
        fixed=b"".join([body[part] for part in rest]),
        pieces=pieces,
        reading=Reading(
            client_id=found or update.client_id,
            names=traced.names,
            views=traced.views,
            metrics=traced.metrics,
            keys=traced.keys,
            steps=traced.steps,
        ),
    )
