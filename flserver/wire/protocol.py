"""The protocol as a state machine: which messages may come next on a connection.

A trainer opens two kinds of connection. On its first one it asks to take part, and where it may it stays: each
round's model comes there, and at last the word that the run is over. Every trained model goes on a new connection of
its own, which nothing is answered on. Which kind a connection is shows in its first message, so both begin alike.

A connection is in one of four states, and each message takes it from one state to another:

    state    sender   message       next
    -------  -------  ------------  -------
    OPENED   client   Metadata      ASKED     it asks to take part
    OPENED   client   Update        ENDED     it brings a trained model
    OPENED   server   Error         ENDED     what should have been one of these two cannot be read
    ASKED    server   Success       JOINED    it takes part
    ASKED    server   Error         ENDED     it does not
    JOINED   server   GlobalModel   JOINED    a round begins
    JOINED   server   Finished      ENDED     the run is over, or stops

Both ends keep the state, each by itself, and with the same table: a message has one sender, so what one end may send is
what the other may receive. A message that has no line at the connection's state is out of turn. It is refused, and the
state stays as it was. Nothing comes after ENDED.
"""

from collections.abc import Hashable, Sequence
from enum import Enum, auto
from functools import cache

from flserver.errors import MessageRefused
from flserver.wire.framing import FrameLimits
from flserver.wire.inert import Tick, unmetered
from flserver.wire.layouts import Layout, Layouts
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
    """Where a connection stands; the module's table says what each state lets through."""

    OPENED = auto()
    ASKED = auto()
    JOINED = auto()
    ENDED = auto()


class Role(Enum):
    """Which end of the connection we are."""

    SERVER = auto()
    CLIENT = auto()


TRANSITIONS: dict[State, dict[type[Message], State]] = {
    State.OPENED: {Metadata: State.ASKED, Update: State.ENDED, Error: State.ENDED},
    State.ASKED: {Success: State.JOINED, Error: State.ENDED},
    State.JOINED: {GlobalModel: State.JOINED, Finished: State.ENDED},
    State.ENDED: {},
}

FROM_CLIENT: frozenset[type[Message]] = frozenset({Metadata, Update})
JSON_MESSAGES: frozenset[type[Message]] = frozenset({Metadata, Success, Error})


@cache
def _expected(role: Role, state: State) -> tuple[type[Message], ...]:
    ours = role is Role.SERVER
    return tuple(kind for kind in TRANSITIONS[state] if (kind in FROM_CLIENT) == ours)


@cache
def _encodings(role: Role, state: State) -> tuple[bool, bool]:
    """Whether JSON, and whether a pickle, may come."""
    expected = _expected(role, state)
    return any(kind in JSON_MESSAGES for kind in expected), any(kind not in JSON_MESSAGES for kind in expected)


class Conversation:
    """One end's view of a connection: it knows the state, and reads what the other end sends."""

    def __init__(self, role: Role, *, json_limit: int, pickle_limit: int, pickles: PickleLimits | None = None) -> None:
        """``json_limit`` and ``pickle_limit`` are the longest bodies (bytes) that the other end may send in each
        encoding; ``pickles`` is what reading one pickle may cost."""
        self._role = role
        self._json_limit = json_limit
        self._pickle_limit = pickle_limit
        self._pickles = pickles or PickleLimits()
        self.state = State.OPENED

    def expected(self) -> tuple[type[Message], ...]:
        """The messages that the peer may send now."""
        return _expected(self._role, self.state)

    def frame_limits(self) -> FrameLimits:
        """The longest body of each encoding that the peer may send now."""
        json, pickle = _encodings(self._role, self.state)
        return FrameLimits(json=self._json_limit if json else 0, pickle=self._pickle_limit if pickle else 0)

    def limit_pickles(self, longest: int, pickles: PickleLimits) -> None:
        """The limits on pickles, where they were not known before."""
        self._pickle_limit, self._pickles = longest, pickles

    def receive(self, body: memoryview, tick: Tick = unmetered) -> Message:
        """Decode a whole body that came in, and go on to the state that its message leads to. ``tick`` is ``decode``'s.

        Raises PickleRefused or MessageRefused where it is no message, or one out of turn; the state then stays.
        """
        message = decode(body, from_client=self._role is Role.SERVER, pickles=self._pickles, tick=tick)
        self._advance(type(message))
        return message

    def recognise(self, body: memoryview, layouts: Layouts, but: Sequence[Layout] = ()) -> Update | None:
        """The same for a body of a layout that is known, which is none of ``but``, else None. Raises MessageRefused."""
        update = layouts.recognise(body, self._pickles, but)
        if update is not None:
            self._advance(Update)
        return update

    def learn(
        self,
        body: memoryview,
        update: Update,
        layouts: Layouts,
        owner: Hashable,
        tick: Tick = unmetered,
        but: Sequence[Layout] = (),
    ) -> None:
        """Let the layout of a ``body`` that was read as ``update``, and is of none of ``but``, be known from here on,
        in the share of its ``owner``. Raises what ``tick`` does."""
        layouts.learn(body, update, self._pickles, owner, tick, but)

    def send(self, kind: type[Message]) -> None:
        """Go on to the state that sending a message of this kind leads to. Raises MessageRefused where it is out of
        turn."""
        self._advance(kind)

    def _advance(self, kind: type[Message]) -> None:
        following = TRANSITIONS[self.state].get(kind)
        if following is None:
            raise MessageRefused(f"{kind.header} out of turn (the connection is {self.state.name.lower()})")
        self.state = following
