"""Reading a pickle that a peer sent: :func:`read_message`, then :func:`read_module` for what it holds.

Nothing is imported, looked up or called, and no byte of a tensor is copied (protocol 2 apart). What a pickle asks to be
called stands in the tree as an inert ``Call``. In an attribute of a module that is no parameter, buffer or child it is
ignored, as any odd attribute is; where a message, a module, a tensor or a storage has to stand, it is refused.
"""

from flserver.errors import PickleRefused
from flserver.wire.inert import PickleLimits, described
from flserver.wire.machine import Machine
from flserver.wire.modules import Module, TensorView, read_module

__all__ = ["Module", "PickleLimits", "TensorView", "read", "read_message", "read_module", "read_opening"]


def read(body: memoryview | bytes | bytearray, limits: PickleLimits | None = None) -> object:
    """The inert tree (see :mod:`flserver.wire.inert`) of a pickle that fills ``body``. It views ``body``.

    Raises PickleRefused, and nothing else, whatever the bytes are.
    """
    limits = limits or PickleLimits()
    data = memoryview(body).cast("B")
    machine = Machine(data, limits, opcodes=limits.opcodes)
    value = machine.load()
    if machine.position != len(data):
        raise PickleRefused(f"{len(data) - machine.position} bytes follow the pickle")
    return value


def read_message(body: memoryview | bytes | bytearray, limits: PickleLimits | None = None) -> dict[str, object]:
    """The inert items of a pickled dict; items whose keys are not ``str`` are left out. Raises PickleRefused."""
    value = read(body, limits)
    if type(value) is not dict:
        raise PickleRefused(f"{described(value)} is not a message")
    return value


def read_opening(opening: memoryview | bytes | bytearray) -> dict[str, object]:
    """What the first bytes of a pickled message say of it, before they end or something in them is refused.

    The inert items of the dict that it is, as far as they stand there. Raises nothing, whatever the bytes are.
    """
    limits = PickleLimits()
    machine = Machine(memoryview(opening).cast("B"), limits, opcodes=limits.opcodes)
    machine.whole = False
    try:
        value = machine.load()
    except PickleRefused:
        value, *items = [*machine.frames[0], *(machine.frames[1] if len(machine.frames) > 1 else ())] or [None]
        if type(value) is dict:
            said = zip(items[::2], items[1::2], strict=False)
            value = value | {key: item for key, item in said if type(key) is str}
    return value if type(value) is dict else {}
