"""What one hostile input is: who sends what, how the connection goes on, and what must be on record afterwards."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from tests.e2e.hostile.net import Net
from tests.wire.pickle_opcodes import mapping, module, tensor, text

CLASSES = ("code", "bomb", "framing", "json", "model", "identity", "cut", "flip")

STRANGER = "stranger"  # an id that never registers: whatever it uploads, the model must not change
UNREGISTERED = "for client stranger, which has not registered"  # its pickle was read to the end, and did nothing


class Then(Enum):
    """What the sender does after its last byte."""

    HALF_CLOSE = auto()
    """It ends its direction and reads until the server ends the other."""
    WAIT = auto()
    """It ends nothing: the server must."""
    CLOSE = auto()
    RESET = auto()
    """It resets the connection as soon as the server has read all."""
    HOLD = auto()
    """It says nothing more until the round is over."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """Bytes on a new connection of somebody who takes no part.

    ``wire`` is all of them, the length included. ``outcome`` names the outcomes that the message's row may have;
    "none" is for a connection without a message, whose own reason must match. ``reason`` is a regular expression.
    ``before``: sent before anybody has registered. ``elsewhere``: from an address where nobody registers. ``answer``:
    the header of what is sent back, if that is promised. ``armed``: whether plain pickle, given the body, runs what it
    says.
    """

    name: str
    klass: str
    wire: bytes
    reason: str
    outcome: tuple[str, ...] = ("refused",)
    then: Then = Then.HALF_CLOSE
    before: bool = False
    elsewhere: bool = False
    answer: str | None = None
    armed: bool = False

    @property
    def body(self) -> bytes:
        return self.wire[8:]


class Turn(Enum):
    """Where a participant's upload comes in its round."""

    ASKED = auto()
    """It answers the round's model."""
    ANSWERED = auto()
    """The model was answered before, by one that was rejected."""
    LATE = auto()
    """The participant left, and the attempt that asked it is over."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A participant's own wrong upload. ``spoil`` makes of the model it received what stands in the message's place
    of one; ``fields`` replaces others. ``trailing`` follows the frame.

    ``decision`` None: the message itself is ``refused``.
    """

    name: str
    spoil: Callable[[Net], object]
    reason: str
    decision: str | None = "rejected"
    klass: str = "model"
    turn: Turn = Turn.ASKED
    fields: tuple[tuple[str, object], ...] = ()
    trailing: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Speech:
    """Bytes that a participant sends on its first connection, where it has nothing to say while it trains."""

    name: str
    wire: bytes
    klass: str = "framing"
    reason: str = "a registered trainer sent something on its first connection"


def framed(body: bytes) -> bytes:
    """A body with its length before it."""
    return len(body).to_bytes(8, "big") + body


def pickled(*opcodes: bytes, protocol: int = 4) -> bytes:
    """Protocol 4 is the first that resolves dotted names."""
    return bytes([0x80, protocol]) + b"".join(opcodes) + b"."


def upload(model: bytes, protocol: int = 4, **more: bytes) -> bytes:
    """The frame of an upload by a stranger, its model given in opcodes."""
    fields = {"header": text("<MODEL>"), "id": text(STRANGER)} | more | {"model": model}
    return framed(pickled(mapping(**fields), protocol=protocol))


def with_attribute(value: bytes) -> bytes:
    """A right module that holds ``value`` where nothing but Python itself would look at it."""
    return module({"w": tensor()}, odd=value)
