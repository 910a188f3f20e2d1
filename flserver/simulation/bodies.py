"""The bodies that come to many trainers of one process: what all of them are sent is in memory once. No sockets.

Whoever is first to receive a part of a round's model puts it there; what the others receive is held against it. Where
it differs, what they receive is a later round's: they were not sent the one before.
"""

from collections.abc import Iterator
from functools import cached_property

from flserver.errors import FrameRefused
from flserver.simulation.answers import Model
from flserver.wire.framing import IMPLAUSIBLE_LENGTH, LENGTH_BYTES
from flserver.wire.messages import Message, decode
from flserver.wire.pickles import PickleLimits

_LIMITS = PickleLimits(opcodes=2**31, memo=2**30, names_length=2**31, steps=2**31)

KEPT = 3  # bodies of a length: slow readers may still be at earlier ones


class Body:
    """A body, as far as it is known. ``number`` counts those of its length that followed each other, from 1."""

    def __init__(self, length: int, number: int) -> None:
        self.number = number
        self._bytes = bytearray(length)
        self._known = 0

    def __len__(self) -> int:
        return len(self._bytes)

    def takes(self, at: int, part: memoryview) -> bool:
        """Whether ``part`` stands there, as far as that is known; from here on it is."""
        known = min(len(part), self._known - at)
        if known and not self._bytes.startswith(part[:known], at):
            return False
        if known < len(part):
            self._bytes[at + known : at + len(part)] = part[known:]
            self._known = at + len(part)
        return True

    def first(self, count: int) -> memoryview:
        """So many bytes of it."""
        return memoryview(self._bytes)[:count]

    @cached_property
    def message(self) -> Message:
        """What a whole body says. Raises Refused."""
        return decode(memoryview(self._bytes), from_client=False, pickles=_LIMITS)

    @cached_property
    def model(self) -> Model:
        """What a whole body holds, where it is a ``<MODEL>``."""
        return Model(self._bytes)


class Bodies:
    """The newest few bodies of each length."""

    def __init__(self) -> None:
        self._of_length: dict[int, list[Body]] = {}

    def begin(self, length: int, after: int) -> Body:
        """Where a body of ``length`` goes that comes to who has, or is not sent, those up to number ``after``."""
        bodies = self._of_length.get(length, [])
        return next((body for body in bodies if body.number > after), None) or self._new(length, after + 1)

    def go_on(self, body: Body, at: int, part: memoryview) -> Body:
        """Where what was taken for ``body`` goes on with ``part``, from ``at`` on: there, or in a later one that is the
        same up to there, or in one that nobody else has seen yet."""
        while not body.takes(at, part):
            begun = body.first(at)
            later = [one for one in self._of_length[len(body)] if one.number > body.number]
            body = next((one for one in later if one.takes(0, begun)), None) or self._new(len(body), body.number + 1)
            body.takes(0, begun)
        return body

    def _new(self, length: int, least: int) -> Body:
        bodies = self._of_length.setdefault(length, [])
        bodies.append(Body(length, max([least, *(body.number + 1 for body in bodies)])))
        del bodies[:-KEPT]
        return bodies[-1]


class Frames:
    """What comes on one connection: bytes in, whole bodies out. ``after`` is the number of the last model that came, or
    will not."""

    def __init__(self, bodies: Bodies, after: int) -> None:
        self._bodies, self.after = bodies, after
        self._head = bytearray()
        self._body: Body | None = None
        self._at = 0

    def feed(self, data: bytes) -> Iterator[Body]:
        """Raises FrameRefused for a length that cannot be."""
        view = memoryview(data)
        while view:
            if self._body is None:
                missing = LENGTH_BYTES - len(self._head)
                self._head += view[:missing]
                view = view[missing:]
                if len(self._head) == LENGTH_BYTES:
                    self._body, self._at = self._bodies.begin(self._length(), self.after), 0
                    self._head.clear()
                continue
            part = view[: len(self._body) - self._at]
            self._body = self._bodies.go_on(self._body, self._at, part)
            self._at += len(part)
            view = view[len(part) :]
            if self._at == len(self._body):
                body, self._body = self._body, None
                yield body

    def _length(self) -> int:
        length = int.from_bytes(self._head, "big")
        if not 0 < length < IMPLAUSIBLE_LENGTH:
            raise FrameRefused(f"the server announced {length} bytes: it does not speak this protocol")
        return length
