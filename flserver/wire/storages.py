"""The nested file in which torch pickles a storage, read without torch.

``torch.storage._load_from_bytes`` gets a whole file as ``torch.save(..., _use_new_zipfile_serialization=False)`` writes
it: pickles of a magic number, the protocol 1001, the writer's system, the storage (a persistent id), the list of its
keys; then its number of elements as int64, and its elements. Source: ``_legacy_save`` in ``torch/serialization.py``.
"""

import codecs
from typing import Final, NamedTuple

from flserver.errors import PickleRefused
from flserver.wire.dtypes import DTYPES
from flserver.wire.inert import Call, LongText, Name, Persistent, PickleLimits, Tick, described, unmetered
from flserver.wire.machine import Machine

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_PROTOCOL: Final = 1001
_LOAD_FROM_BYTES: Final = Name("torch.storage", "_load_from_bytes")
_ENCODE: Final = Name("_codecs", "encode")
_UTF8: Final = codecs.getincrementaldecoder("utf-8")
_PIECE: Final = 64 * 1024  # bytes of text decoded at once

_DTYPES: Final = {Name("torch", dtype.storage): dtype.name for dtype in DTYPES.values()} | {
    # torch reads an untyped storage as bytes.
    Name("torch", "UntypedStorage"): "uint8",
    Name("torch.storage", "UntypedStorage"): "uint8",
}


class Storage(NamedTuple):
    """A storage's dtype, number of elements and little-endian bytes (a slice of the body)."""

    dtype: str
    elements: int
    data: memoryview


class File(NamedTuple):
    """A nested file that was read: its bytes, the storage in it and that one's key, and where in the file two pickles
    stand that name the key: the first one's begin, its end, which is the second one's begin, and that one's end."""

    whole: memoryview
    storage: Storage
    key: str
    pickles: tuple[int, int, int]


class StorageReader:
    """Reads the storages of one tree, each nested file once, all of them within one budget of opcodes. ``files`` are
    those that were read."""

    def __init__(self, limits: PickleLimits, tick: Tick = unmetered) -> None:
        self._limits = limits
        self._tick = tick
        self._opcodes_left = limits.opcodes
        # By the payload's identity, not the call's: many calls may name one payload. The tree keeps the payloads, and
        # with them their ids, alive.
        self._storages: dict[int, Storage] = {}
        self.files: list[File] = []

    def read(self, value: object) -> Storage:
        """The storage that the call ``value`` stands for. Raises PickleRefused."""
        if type(value) is not Call or value.function != _LOAD_FROM_BYTES or len(value.arguments) != 1:
            raise PickleRefused(f"{described(value)} is not a storage")
        payload = value.arguments[0]
        if type(payload) is Call and payload.function == _ENCODE and len(payload.arguments) == 2:
            payload = payload.arguments[0]
        storage = self._storages.get(id(payload))
        if storage is None:
            if type(payload) is LongText:
                self._tick(2 * len(payload.utf8))  # the copy, and as it grows
            storage = self._storages[id(payload)] = self._file(_as_bytes(payload))
        return storage

    def _file(self, data: memoryview) -> Storage:
        machine = Machine(data, self._limits, opcodes=self._opcodes_left, persistent=True, tick=self._tick)
        try:
            magic, protocol, system = machine.load(), machine.load(), machine.load()
            if type(magic) is not int or magic != _MAGIC or type(protocol) is not int or protocol != _PROTOCOL:
                raise PickleRefused("a storage's file does not start as torch writes it")
            if type(system) is not dict or system.get("little_endian") is not True:
                raise PickleRefused("a storage's file is not little-endian")
            begin = machine.position
            dtype, key, elements = _identity(machine.load())
            middle = machine.position
            keys = machine.load()
            end = machine.position
        finally:
            self._opcodes_left = machine.opcodes_left
        if type(keys) is not list or len(keys) != 1 or type(keys[0]) is not str or keys[0] != key:
            raise PickleRefused("a storage's file holds other storages than its own")
        if int.from_bytes(machine.take(8), "little", signed=True) != elements:
            raise PickleRefused("a storage's file disagrees with itself on the number of elements")
        numbers = machine.take(elements * DTYPES[dtype].size)
        if machine.position != len(data):
            raise PickleRefused("a storage's file goes on after its last element")
        storage = Storage(dtype, elements, numbers)
        self.files.append(File(data, storage, key, (begin, middle, end)))
        return storage


def _identity(value: object) -> tuple[str, str, int]:
    """dtype, key and number of elements; the location (``cpu``, ``cuda:0``, ``mps:0``) does not matter."""
    identity = value.identity if type(value) is Persistent else None
    if type(identity) is not tuple or len(identity) != 6:
        raise PickleRefused(f"a storage's file holds {described(value)} instead of a storage")
    kind, storage, key, _, elements, view = identity
    if type(kind) is not str or kind != "storage" or type(key) is not str or view is not None:
        raise PickleRefused("a storage's file holds something else than a whole storage")
    dtype = _DTYPES.get(storage) if type(storage) is Name else None
    if dtype is None:
        raise PickleRefused(f"{described(storage)} is not a kind of storage that is read")
    if type(elements) is not int or elements < 0:
        raise PickleRefused("a storage's file claims a number of elements that is none")
    return dtype, key, elements


def _as_bytes(payload: object) -> memoryview:
    """The payload's bytes; protocol 2 has none, and writes them as latin-1 text, which costs a copy."""
    if type(payload) is memoryview:
        return payload
    try:
        if type(payload) is LongText:
            return _latin1(payload.utf8)
        if type(payload) is str:
            return memoryview(payload.encode("latin-1"))
    except UnicodeError as error:
        raise PickleRefused("a storage's file is text that holds more than bytes") from error
    raise PickleRefused(f"a storage's file is {described(payload)} instead of bytes")


def _latin1(utf8: memoryview) -> memoryview:
    """Text as bytes, in pieces: decoded as a whole, one character that is no byte makes all of it four bytes wide."""
    decoder, found = _UTF8(), bytearray()
    for start in range(0, len(utf8), _PIECE):
        text = decoder.decode(utf8[start : start + _PIECE], final=start + _PIECE >= len(utf8))
        found += text.encode("latin-1")
    return memoryview(found).toreadonly()
