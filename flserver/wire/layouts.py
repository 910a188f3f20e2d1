"""Updates that are pickled as one before was, but for its numbers: read without the pickle machine, to the same result.

A fleet's trainers pickle the same module, round after round: what differs are the tensors' bytes, their storages' keys,
the client's id, and the numbers that it measured. Where those stand in a message, and what the machine made of it, is
its layout. A message of the same length that is the same outside of these places is the same message with other numbers
in it:

- the tensors' bytes are the end of a storage's file, which the machine steps over;
- a storage's key, which torch makes of an address, stands twice in its file, once in each of two pickles, and must be
  the same there; digits are nothing else to the machine;
- an id is such a place where it is an integer or a text of as many bytes, and the message is read as before with
  something in its stead that is refused wherever one of these is looked at, and that must be used once;
- a float's value is looked at nowhere.

Everything else, above all what has a length, is compared byte by byte.
"""

import struct
from collections import defaultdict
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from flserver.errors import MessageRefused, Refused
from flserver.wire.inert import PickleLimits, Tick, unmetered
from flserver.wire.messages import Measurement, Update, read_client_id
from flserver.wire.modules import Module
from flserver.wire.tracing import Number, Text, Traced, View

MOST_FIXED: Final = 1 << 20  # bytes of a layout that are compared, and kept: ResNet-152's has 340 KiB
MOST_TENSORS: Final = 4096  # of a layout: shared modules give many names in few bytes
MOST: Final = 32  # layouts that are kept
MOST_BYTES: Final = 1 << 24  # that those take together
BYTES_A_TENSOR: Final = 1 << 10  # that a layout takes, beside what is compared
MISSES: Final = 16  # messages of no known layout for each that is learnt, beyond the first ``MOST``


@dataclass(frozen=True, eq=False)
class Layout:
    """What a message of one layout says, and where its numbers stand. ``rest`` are the slices between these places, and
    ``fixed`` their bytes; ``names`` has the place in ``views`` of each tensor, ``metrics`` a float's place or its
    value; ``keys`` are the two places of each storage's. It is kept in the share of ``owner``."""

    limits: PickleLimits
    length: int
    rest: tuple[slice, ...]
    fixed: bytes
    client_id: str | Number | Text
    names: tuple[tuple[str, int], ...]
    views: tuple[View, ...]
    metrics: tuple[tuple[Measurement, int | None], ...]
    keys: tuple[tuple[slice, slice], ...]
    steps: int
    owner: Hashable = None

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
        """The message in a body that ``fits``. Raises MessageRefused, UnicodeDecodeError where what is said to be an
        id is none."""
        views = [view.over(body) for view in self.views]
        return Update(
            client_id=read_client_id(self.client_id if isinstance(self.client_id, str) else self.client_id.read(body)),
            model=Module(tensors={name: views[which] for name, which in self.names}, steps=self.steps),
            metrics=tuple(_measured(body, metric, at) for metric, at in self.metrics),
        )


def _measured(body: memoryview, metric: Measurement, at: int | None) -> Measurement:
    if at is None:
        return metric
    return Measurement(name=metric.name, measured_on=metric.measured_on, value=struct.unpack_from(">d", body, at)[0])


class Layouts:
    """The layouts that are kept, the one that was used last at the end. For many threads, without a lock: what is known
    is replaced as a whole, and where two replace it at the same time, one that was learnt just then is learnt again."""

    def __init__(self) -> None:
        self.known: tuple[Layout, ...] = ()
        self._credit = MOST * MISSES
        self._learning = set[int]()  # the lengths of what is being learnt from: a fleet's first updates come together

    def recognise(self, body: memoryview, limits: PickleLimits) -> Update | None:
        """The message that reading ``body`` within ``limits`` gives, where one of its layout came before."""
        known = self.known
        for layout in reversed(known):
            if layout.length == len(body) and layout.limits == limits and layout.fits(body):
                if known[-1] is not layout:
                    self.known = (*(one for one in known if one is not layout), layout)
                with suppress(MessageRefused, UnicodeDecodeError):  # the machine says it, with its reasons
                    return layout.read(body)
        return None

    def learn(
        self, body: memoryview, update: Update, limits: PickleLimits, owner: Hashable, tick: Tick = unmetered
    ) -> None:
        """``body`` was read as ``update``, and of no known layout. ``owner`` is whoever answers for it. ``tick`` is the
        reader's; raises what it does."""
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
            self.known = _within_bounds([*self.known, replace(layout, owner=owner)])


def _within_bounds(known: list[Layout]) -> tuple[Layout, ...]:
    """Without as many as are too much: the owner with the largest share loses the one that it used longest ago."""
    while len(known) > MOST or sum(one.weight for one in known) > MOST_BYTES:
        shares = defaultdict[Hashable, float](float)
        for one in known:
            shares[one.owner] += max(1 / MOST, one.weight / MOST_BYTES)
        known.remove(next(one for one in known if shares[one.owner] == max(shares.values())))
    return tuple(known)


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
