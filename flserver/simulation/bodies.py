"""The bodies that come to many trainers of one process: what all of them are sent is in memory once. No sockets.

Whoever is first to receive a part of a body puts it there; what the others receive is held against it. Where it
differs, it is another one: of a later round, or the same model as another process of the server writes it.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from functools import cached_property

from flserver.errors import FrameRefused
from flserver.simulation.answers import Model
from flserver.wire.framing import IMPLAUSIBLE_LENGTH, LENGTH_BYTES
from flserver.wire.messages import Message, decode
from flserver.wire.pickles import PickleLimits

_LIMITS = PickleLimits(opcodes=2**31, memo=2**30, names_length=2**31, steps=2**31)

KEPT = 3  # bodies of a length from each process of the server: slow readers may still be at earlier ones


class Body:
    """A body, as far as it is known."""

    def __init__(self, length: int) -> None:
        self._bytes = bytearray(length)
        self._known = 0
        self.counted = False  # among those of its content

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

    @cached_property
    def content(self) -> bytes:
        """The digest of that model's numbers: torch writes beside them where they lie in a process's memory."""
        digest = hashlib.sha256()
        for name, view in self.model.template.module.tensors.items():
            digest.update(f"{name}|{view.shape}|{view.stride}|{view.offset}|".encode())
            digest.update(view.storage)
        return digest.digest()


class Bodies:
    """The newest few bodies of each length, and of which round each model is. Rounds are counted from 1."""

    def __init__(self) -> None:
        self._of_length: dict[int, list[Body]] = {}
        self._contents: list[bytes] = []  # of the rounds' models
        self._alike: Counter[bytes] = Counter()  # bodies by content
        self._processes = 1  # of the server, as far as they have shown

    def begin(self, length: int) -> Body:
        """Where a body of ``length`` goes, until it shows to be another."""
        bodies = self._of_length.get(length)
        return bodies[-1] if bodies else self._new(length)

    def go_on(self, body: Body, at: int, part: memoryview) -> Body:
        """Where what was taken for ``body`` goes on with ``part``, from ``at`` on: there, or in another that is the
        same up to there, or in one that nobody else has seen yet."""
        if body.takes(at, part):
            return body
        begun = body.first(at)
        for other in reversed(self._of_length[len(body)]):
            if other is not body and other.takes(0, begun) and other.takes(at, part):
                return other
        new = self._new(len(body))
        new.takes(0, begun)
        new.takes(at, part)
        return new

    def round_of(self, body: Body, after: int) -> int:
        """The round whose model this is, for one who has, or is not sent, those up to round ``after``. The same numbers
        once more are a round more: an attempt is made again."""
        content = body.content
        self._count(body, content)
        for number in range(after + 1, len(self._contents) + 1):
            if self._contents[number - 1] == content:
                return number
        self._contents.append(content)
        return len(self._contents)

    def _count(self, body: Body, content: bytes) -> None:
        if not body.counted:
            body.counted = True
            self._alike[content] += 1
            self._processes = max(self._processes, self._alike[content])

    def _new(self, length: int) -> Body:
        bodies = self._of_length.setdefault(length, [])
        bodies.append(Body(length))
        del bodies[: -KEPT * self._processes]
        return bodies[-1]


class Frames:
    """What comes on one connection: bytes in, whole bodies out."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
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
                    self._body, self._at = self._bodies.begin(self._length()), 0
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
