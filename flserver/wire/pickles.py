"""Reading a pickle that a peer sent: :func:`read_message`, then :func:`read_module` for what it holds.

Nothing is imported, looked up or called, and no byte of a tensor is copied (protocol 2 apart). What a pickle asks to be
called stands in the tree as an inert ``Call``. In an attribute of a module that is no parameter, buffer or child it is
ignored, as any odd attribute is; where a message, a module, a tensor or a storage has to stand, it is refused.
"""

from typing import Final

from flserver.errors import PickleRefused
from flserver.wire.inert import PickleLimits, Tick, described, unmetered
from flserver.wire.machine import Machine
from flserver.wire.modules import Module, TensorView, read_module

__all__ = [
    "MOST_MODELS",
    "Module",
    "PickleLimits",
    "TensorView",
    "Tick",
    "read",
    "read_message",
    "read_module",
    "read_opening",
]


MOST_MODELS: Final = 64
"""Whole models that one message may hold: weights that are views of one buffer are pickled with all of it, each."""

_OPENING: Final = PickleLimits(opcodes=2_000)  # what stands in front of a model is said in a dozen


def read(body: memoryview | bytes | bytearray, limits: PickleLimits | None = None, tick: Tick = unmetered) -> object:
    """The inert tree (see :mod:`flserver.wire.inert`) of a pickle that fills ``body``. It views ``body``.

    Raises PickleRefused, and nothing else but what ``tick`` does, whatever the bytes are.
    """
    limits = limits or PickleLimits()
    data = memoryview(body).cast("B")
    machine = Machine(data, limits, opcodes=limits.opcodes, tick=tick)
    value = machine.load()
    if machine.position != len(data):
        raise PickleRefused(f"{len(data) - machine.position} bytes follow the pickle")
    return value


def read_message(
    body: memoryview | bytes | bytearray, limits: PickleLimits | None = None, tick: Tick = unmetered
) -> dict[str, object]:
    """The inert items of a pickled dict; items whose keys are not ``str`` are left out. Raises PickleRefused."""
    value = read(body, limits, tick)
    if type(value) is not dict:
        raise PickleRefused(f"{described(value)} is not a message")
    return value


def read_opening(opening: memoryview | bytes | bytearray, opcodes: int = _OPENING.opcodes) -> dict[str, object]:
    """What the first bytes of a pickled message say of it, before they end or something in them is refused; no more is
    looked at than an ordinary message needs, or than so many ``opcodes``.

    The inert items of the dict that it is, as far as they stand there. Raises nothing, whatever the bytes are.
    """
    machine = Machine(memoryview(opening).cast("B"), _OPENING, opcodes=opcodes)
    machine.whole = False
    try:
        value = machine.load()
    except PickleRefused:
        value, *items = [*machine.frames[0], *(machine.frames[1] if len(machine.frames) > 1 else ())] or [None]
        if type(value) is dict:
            said = zip(items[::2], items[1::2], strict=False)
            value = value | {key: item for key, item in said if type(key) is str}
    return value if type(value) is dict else {}
