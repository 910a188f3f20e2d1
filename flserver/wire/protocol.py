"""One connection's state machine, the same at both ends: each message has one sender, so one table does for two.

client                               server
  ── Metadata ──────────────────────▶        OPENED → ASKED
  ◀────────────────── Success, Error ──      ASKED → JOINED, or ENDED (Error: from OPENED too)
  ◀───────────────────── GlobalModel ──      JOINED, every round
  ◀──────────────────────── Finished ──      JOINED → ENDED
on another connection
  ── Update ────────────────────────▶        OPENED → ENDED
"""

from enum import Enum, auto

from flserver.errors import MessageRefused
from flserver.wire.framing import FrameLimits
from flserver.wire.messages import (
    Error,
    Finished,
    GlobalModel,
    Message,
    Metadata,
    Success,
    Update,
    decode,
)
from flserver.wire.pickles import PickleLimits


class State(Enum):
    """Where a connection is in its life."""

    OPENED = auto()
    ASKED = auto()
    JOINED = auto()
    ENDED = auto()


class Role(Enum):
    """Which end of the connection we are."""

    SERVER = auto()
    CLIENT = auto()


TRANSITIONS: dict[State, dict[type[Message], State]] = {
    # An Error at once answers a registration that was not one.
    State.OPENED: {Metadata: State.ASKED, Update: State.ENDED, Error: State.ENDED},
    State.ASKED: {Success: State.JOINED, Error: State.ENDED},
    State.JOINED: {GlobalModel: State.JOINED, Finished: State.ENDED},
    State.ENDED: {},
}

FROM_CLIENT: frozenset[type[Message]] = frozenset({Metadata, Update})
JSON_MESSAGES: frozenset[type[Message]] = frozenset({Metadata, Success, Error})


class Connection:
    """Where one connection stands, what may come next on it, and the messages that came."""

    def __init__(self, role: Role, *, json_limit: int, pickle_limit: int, pickles: PickleLimits | None = None) -> None:
        self._role = role
        self._json_limit = json_limit
        self._pickle_limit = pickle_limit
        self._pickles = pickles or PickleLimits()
        self.state = State.OPENED

    def expected(self) -> tuple[type[Message], ...]:
        """The messages that the peer may send now."""
        ours = self._role is Role.SERVER
        return tuple(kind for kind in TRANSITIONS[self.state] if (kind in FROM_CLIENT) == ours)

    def frame_limits(self) -> FrameLimits:
        """The longest frames that the peer may send now."""
        expected = self.expected()
        json = any(kind in JSON_MESSAGES for kind in expected)
        pickle = any(kind not in JSON_MESSAGES for kind in expected)
        return FrameLimits(json=self._json_limit if json else 0, pickle=self._pickle_limit if pickle else 0)

    def receive(self, body: memoryview) -> Message:
        """The message in a whole body that came in.

        Raises PickleRefused or MessageRefused; the state is then unchanged.
        """
        message = decode(body, from_client=self._role is Role.SERVER, pickles=self._pickles)
        self._advance(type(message))
        return message

    def send(self, kind: type[Message]) -> None:
        """A message of this kind goes out."""
        self._advance(kind)

    def _advance(self, kind: type[Message]) -> None:
        following = TRANSITIONS[self.state].get(kind)
        if following is None:
            raise MessageRefused(f"{kind.header} out of turn (the connection is {self.state.name.lower()})")
        self.state = following
