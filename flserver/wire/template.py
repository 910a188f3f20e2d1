"""Writing models: a pickled message whose tensors are overwritten in place.

Pickling a model of 46 MB takes ten times as long as copying its numbers into a pickle that is already there. Only our
own objects are pickled here, and nothing is unpickled.
"""

import io
import mmap
import pickle  # noqa: TID251 - the one place: it writes our own objects
import secrets
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Self

from flserver.errors import PickleRefused
from flserver.wire.inert import PickleLimits, described
from flserver.wire.machine import Machine
from flserver.wire.modules import Module, read_module
from flserver.wire.repeats import without_frames

_FRAME_HEAD = 9  # bytes: the opcode FRAME and the length that it claims
_PROTOCOL = 4  # what every Python since 3.8 reads and writes by default, until 3.14
_OURS = PickleLimits(
    opcodes=2**62, memo=2**62, nesting=2**62, names_length=2**62, steps=2**62
)  # our own message is as large as it is


_TOKEN: Final = 32  # bytes that stand for a payload, chosen at random
_PAYLOAD_SLACK: Final = 4096  # bytes of a payload beside its numbers: torch writes some 500


class Payload(NamedTuple):
    """A call of ``function`` with bytes: what ``write`` writes to a file, about ``size`` of them."""

    function: Callable[[bytes], object]
    size: int
    write: Callable[["Space"], object]


class Space:
    """A file in memory that is touched as it is written, and no sooner."""

    def __init__(self, size: int) -> None:
        """``size`` bytes are the most that will be written."""
        self._memory = memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self.written = 0

    def write(self, piece: bytes | memoryview) -> int:
        """Returns how many bytes those were. Raises ValueError where there is no place for them."""
        raw = memoryview(piece).cast("B")
        self._memory[self.written : self.written + len(raw)] = raw
        self.written += len(raw)
        return len(raw)

    def flush(self) -> None:
        """Nothing is held back."""

    def put(self, at: int, piece: bytes) -> None:
        """Write over what is there."""
        self._memory[at : at + len(piece)] = piece

    def view(self) -> memoryview:
        """What was written, to be changed in place."""
        return self._memory[: self.written]


class _Skeleton(pickle.Pickler):
    """Pickles everything but payloads: where one has to stand it writes a token, and keeps both."""

    def __init__(self, file: io.BytesIO, payload_of: Callable[[object], Payload | None]) -> None:
        super().__init__(file, _PROTOCOL)
        self._payload_of = payload_of
        self.payloads: list[tuple[bytes, Payload]] = []

    def reducer_override(self, value: object) -> Any:
        payload = self._payload_of(value)
        if payload is None:
            return NotImplemented
        token = secrets.token_bytes(_TOKEN)
        self.payloads.append((token, payload))
        return payload.function, (token,)


def _pickled(message: object, payload_of: Callable[[object], Payload | None]) -> memoryview:
    """The pickle of ``message``, in memory of its own; no payload is anywhere else meanwhile, not even for a moment."""
    file = io.BytesIO()
    pickler = _Skeleton(file, payload_of)
    pickler.dump(message)
    skeleton, at = without_frames(file.getvalue()), 0
    space = Space(len(skeleton) + sum(payload.size + _PAYLOAD_SLACK for _, payload in pickler.payloads))
    for token, payload in pickler.payloads:
        stands = pickle.SHORT_BINBYTES + bytes([_TOKEN]) + token
        found = skeleton.index(stands, at)
        space.write(skeleton[at:found] + pickle.BINBYTES8 + bytes(8))
        start = space.written
        payload.write(space)
        space.put(start - 8, struct.pack("<Q", space.written - start))
        at = found + len(stands)
    space.write(skeleton[at:])
    return space.view()


class Template:
    """A pickled message ``{"header": ..., "model": ...}`` whose tensors can be overwritten in place.

    ``buffer`` is the message's body; its length never changes. ``module`` describes the model inside, and the
    ``storage`` of each of its tensors is a writable view of ``buffer``. ``opcodes`` is how many the message takes,
    those of its storages' files left out, ``memo`` how many of its values are kept to be referred to, ``nesting`` how
    deep containers are inside each other, and ``weight`` the bytes of memory that reading it takes, by its ticks.
    """

    buffer: bytearray | memoryview
    module: Module
    opcodes: int
    memo: int
    nesting: int
    weight: int

    def __init__(self, buffer: bytearray | memoryview, limits: PickleLimits | None = None) -> None:
        """The template of the pickled message that fills ``buffer``, which is writable and becomes the template's own.

        A received ``<MODEL>`` may be of protocol 3 to 5, and its class need not exist here. Raises PickleRefused, also
        where reading it takes more than ``limits``.
        """
        limits = limits or PickleLimits()
        self.weight = 0
        machine = Machine(memoryview(buffer), limits, opcodes=limits.opcodes, tick=self._weigh)
        message = machine.load()
        if machine.position != len(buffer):
            raise PickleRefused(f"{len(buffer) - machine.position} bytes follow the pickle")
        if type(message) is not dict:
            raise PickleRefused(f"{described(message)} is not a message")
        self.buffer, self.opcodes = buffer, limits.opcodes - machine.opcodes_left
        self.memo, self.nesting = machine.remembered, machine.deepest
        self.module = read_module(message.get("model"), limits, self._weigh)
        if any(view.storage.readonly for view in self.module.tensors.values()):
            raise PickleRefused("a pickle of protocol 2 holds its tensors as text, which cannot be overwritten")
        self._frame = machine.last_frame

    @classmethod
    def of(cls, message: object, payload_of: Callable[[object], Payload | None] = lambda value: None) -> Self:
        """The template of our own ``message``, a dict with a torch module under ``model``.

        ``payload_of`` says which objects are large, and writes them where they belong; without it all of them are in
        memory once more while this works. The module should be on the CPU: its device is written too, and a reader
        without one like it fails. Raises PickleRefused for a module that cannot be read back.
        """
        return cls(_pickled(message, payload_of), _OURS)

    def _weigh(self, size: int) -> None:
        self.weight += size

    def copy(self) -> Self:
        """The same message in a buffer of its own."""
        return type(self)(bytearray(self.buffer), _OURS)

    def answer(self, **items: object) -> list[bytes | memoryview]:
        """The message with ``items`` added or replaced, as pieces of one body to send in this order.

        Values: ``None``, ``bool``, ``int``, ``float``, ``str``, and mappings from ``str`` to them, else TypeError. The
        pieces view ``buffer``: send them before it is overwritten.
        """
        added = b"".join(_encoded(key) + _encoded(value) + pickle.SETITEM for key, value in items.items())
        view = memoryview(self.buffer).toreadonly()
        end = len(view) - 1
        tail = added + pickle.STOP
        if self._frame is None or self._frame[0] + _FRAME_HEAD + self._frame[1] <= end:
            return [view[:end], tail]  # STOP stands outside all frames, where opcodes may stand too
        at, length = self._frame
        return [view[: at + 1], struct.pack("<Q", length + len(added)), view[at + _FRAME_HEAD : end], tail]


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, piece: bytes) -> int:
        return len(piece)


def why_not_pickled(value: object) -> Exception | None:
    """What pickling ``value``, our own, raises, if anything."""
    try:
        pickle.Pickler(_Nowhere(), _PROTOCOL).dump(value)
    except Exception as error:  # pickle's own, and whatever a __reduce__ or __getstate__ raises
        return error
    return None


def _encoded(value: object) -> bytes:
    """``value`` in opcodes that every protocol from 2 on has, without the memo: its numbers belong to the message."""
    match value:
        case None:
            return pickle.NONE
        case bool():
            return pickle.NEWTRUE if value else pickle.NEWFALSE
        case int() if -(2**31) <= value < 2**31:
            return pickle.BININT + struct.pack("<i", value)
        case int():
            encoded = pickle.encode_long(value)
            if len(encoded) > 255:
                raise TypeError("an integer of more than 255 bytes cannot be sent")
            return pickle.LONG1 + bytes([len(encoded)]) + encoded
        case float():
            return pickle.BINFLOAT + struct.pack(">d", value)
        case str():
            encoded = value.encode("utf-8", "surrogatepass")
            return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded
        case Mapping():
            items = b"".join(_encoded(key) + _encoded(item) for key, item in value.items() if _is_text(key))
            return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS
    raise TypeError(f"{type(value).__name__} cannot be sent")


def _is_text(key: object) -> bool:
    if not isinstance(key, str):
        raise TypeError(f"a key of type {type(key).__name__} cannot be sent")
    return True
