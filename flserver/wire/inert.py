"""What a pickle becomes when nothing in it is believed: a tree of inert values.

``None``, ``bool``, ``int``, ``float``, ``str`` and ``tuple`` are themselves. ``list`` also stands for sets, ``dict``
also for ``OrderedDict``; dicts hold the items with ``str`` keys only. ``bytes`` and ``bytearray`` become memoryviews
of the body. The rest are the classes below. Nothing is ever imported, called, compared deeply or hashed deeply.

A tree has no cycles: :mod:`flserver.wire.machine` stores nothing into a container that something else may already
refer to. So walks end, and dropping a tree frees it, and the body it views, at once. But parts may be shared at every
level: a walk without a budget takes 2**n steps, the ``repr`` and ``==`` of Python's own containers among them. So the
classes below have neither (a Name's are flat), and reasons use :func:`described`.
"""

from collections.abc import Callable
from dataclasses import dataclass

Tick = Callable[[int], None]
"""Called again and again while a message is taken apart, each time with the bytes of memory that are about to be taken
for it. It may wait, and what it raises ends the reading."""


def unmetered(size: int) -> None:
    """The tick of whoever does not count."""


@dataclass(frozen=True, kw_only=True)
class PickleLimits:
    """What a pickle may cost. Everything else it costs is proportional to its bytes.

    Every opcode adds at most one value, mark or memo entry, so ``opcodes`` bounds those as well: 250,000 take well
    under a second and some 25 MB at most. Whoever knows what model may come adds twice what that takes: the largest of
    torchvision 190,000, a language model with 3,000 tensors in its adapters a million.
    """

    opcodes: int = 250_000
    """Opcodes of one pickle, and again of all the storages' nested files together."""
    memo: int = 125_000
    """Values kept to be referred to again: each takes an opcode to make and one to keep."""
    nesting: int = 1_000
    """Containers inside containers, whatever they are: Python's own pickler goes no deeper by default."""
    marks: int = 1_000
    """Containers open at once."""
    text_bytes: int = 65_536
    """UTF-8 bytes up to which text becomes ``str``; longer text stays undecoded, as LongText."""
    integer_bytes: int = 255
    """Bytes of an integer: what LONG1 can hold."""
    dimensions: int = 64
    """Dimensions of a tensor; torch itself has no more."""
    depth: int = 128
    """Modules inside modules."""
    name_length: int = 512
    """Characters of a tensor's dotted name."""
    names_length: int = 4_000_000
    """Characters of all dotted names together, modules' included: shared modules multiply them."""
    steps: int = 250_000
    """Modules, and items in them, looked at while walking a tree of modules; shared ones count every time, so a body's
    length does not bound them: whoever knows what model may come allows little more than that takes."""


@dataclass(frozen=True, slots=True)
class Name:
    """A global that a pickle names: a pair of texts, never looked up."""

    module: str
    qualname: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Call:
    """A call that a pickle asks for and that is not made (REDUCE). ``function`` is any tree, mostly a Name."""

    function: object
    arguments: tuple[object, ...]


@dataclass(slots=True, eq=False, repr=False)
class Instance:
    """An object that is not made (NEWOBJ), with the state it would have been given (BUILD)."""

    cls: object
    built: bool = False
    state: object = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Persistent:
    """A reference that only the nested files of storages may hold (BINPERSID)."""

    identity: object


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LongText:
    """Text above ``PickleLimits.text_bytes``, left as its UTF-8 bytes."""

    utf8: memoryview


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class BackReference:
    """Stands where an object refers to one that is still being read: a cycle, which the tree does not follow."""


def quoted(text: str, length: int = 60) -> str:
    """``text`` for an error message: printable ASCII without quotes, at most ``length`` characters."""
    escaped = ascii(text[:length])[1:-1]
    return escaped if len(escaped) <= length and len(text) <= length else escaped[: length - 3] + "..."


def described(value: object) -> str:
    """What ``value`` is, in a few words that are safe to log."""
    if type(value) is Name:
        return f"the name {_dotted(value)}"
    if type(value) is Call:
        return f"a call of {_dotted(value.function)}"
    if type(value) is Instance:
        return f"an object of {_dotted(value.cls)}"
    if type(value) is BackReference:
        return "a reference to an object that it is part of"
    return type(value).__name__


def _dotted(value: object) -> str:
    if type(value) is Name:
        return f"{quoted(value.module, 40)}.{quoted(value.qualname, 40)}"
    return f"a {type(value).__name__}"
