"""Both ends of a connection in any conversation: what is legal goes as the table says, what is not changes nothing."""

import pickle
from collections import deque

import pytest
import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flserver.errors import MessageRefused, PickleRefused
from flserver.wire.messages import (
    FINISHED_BODY,
    Error,
    Finished,
    GlobalModel,
    Message,
    Metadata,
    Success,
    Update,
    encode_json,
    encode_metadata,
)
from flserver.wire.protocol import Conversation, Role, State
from tests.examples import times

JSON_LIMIT, PICKLE_LIMIT = 4096, 1 << 20

_model = torch.nn.Linear(1, 1)
BODIES: dict[type[Message], bytes] = {
    Metadata: encode_metadata("3", 5, {}),
    Success: encode_json(Success(msg="welcome")),
    Error: encode_json(Error(msg="no")),
    GlobalModel: pickle.dumps({"header": "<MODEL>", "model": _model}),
    Update: pickle.dumps({"header": "<MODEL>", "id": 3, "model": _model}),
    Finished: FINISHED_BODY,
}
SPOKEN: dict[Role, tuple[type[Message], ...]] = {
    Role.CLIENT: (Metadata, Update),
    Role.SERVER: (Success, Error, GlobalModel, Finished),
}
LEGAL: dict[tuple[State, type[Message]], State] = {
    (State.OPENED, Metadata): State.ASKED,
    (State.OPENED, Update): State.ENDED,
    (State.OPENED, Error): State.ENDED,
    (State.ASKED, Success): State.JOINED,
    (State.ASKED, Error): State.ENDED,
    (State.JOINED, GlobalModel): State.JOINED,
    (State.JOINED, Finished): State.ENDED,
}
"""The protocol, written down once more."""
JSON = (Metadata, Success, Error)
BROKEN = (
    b"",
    b"{",
    b"{}",
    b'{"header": "<METADATA>"}',
    b'{"header": "<MODEL>", "id": 3}',
    b"\x80\x04N.",
    BODIES[Update][:-1],
    pickle.dumps({"header": "<MODEL>", "id": 3}),
    pickle.dumps({"header": "<SUCCESS>", "msg": "welcome"}),
)

PEER = {Role.CLIENT: Role.SERVER, Role.SERVER: Role.CLIENT}
roles = st.sampled_from(sorted(Role, key=lambda role: role.name))
kinds = st.sampled_from(list(BODIES))


class HonestEnds(RuleBasedStateMachine):
    """A client's end and a server's, the bodies under way between them, and the states that they should have."""

    forging = False

    def __init__(self) -> None:
        super().__init__()
        self.ends = {role: Conversation(role, json_limit=JSON_LIMIT, pickle_limit=PICKLE_LIMIT) for role in Role}
        self.states = dict.fromkeys(Role, State.OPENED)
        self.under_way: dict[Role, deque[type[Message]]] = {role: deque() for role in Role}  # by who will receive it
        self.forged = False

    @rule(role=roles, data=st.data())
    def says(self, role: Role, data: st.DataObject) -> None:
        """An end sends one of its own messages, in turn or not."""
        kind = data.draw(st.sampled_from(SPOKEN[role]))
        if (self.states[role], kind) == (State.OPENED, Error):
            # What a server says to a registration that is none; an honest client never hears it so.
            if not self.forging:
                return
            self.forged = True
        following = LEGAL.get((self.states[role], kind))
        if following is None:
            with pytest.raises(MessageRefused, match="out of turn"):
                self.ends[role].send(kind)
            return
        self.ends[role].send(kind)
        self.states[role] = following
        self.under_way[PEER[role]].append(kind)

    @rule(role=roles)
    def hears(self, role: Role) -> None:
        """The oldest body under way arrives. Between honest ends nothing is ever refused."""
        if self.under_way[role]:
            kind = self.under_way[role].popleft()
            legal = self.arrives(role, kind)
            assert legal or self.forged

    @precondition(lambda self: self.forging)
    @rule(role=roles, kind=kinds)
    def is_told(self, role: Role, kind: type[Message]) -> None:
        """A peer that keeps to nothing: any message at any time."""
        self.forged = True
        self.arrives(role, kind)

    @rule(role=roles, body=st.sampled_from(BROKEN))
    def is_told_nonsense(self, role: Role, body: bytes) -> None:
        with pytest.raises((MessageRefused, PickleRefused)):
            self.ends[role].receive(memoryview(body))

    def arrives(self, role: Role, kind: type[Message]) -> bool:
        """Hands over a body; whether it was legal."""
        end, body = self.ends[role], memoryview(BODIES[kind])
        # One header for two: at the other end, an update would be a global model.
        meant = {Update: GlobalModel, GlobalModel: Update}.get(kind, kind) if kind in SPOKEN[role] else kind
        following = LEGAL.get((self.states[role], meant)) if meant in SPOKEN[PEER[role]] else None
        if role is Role.SERVER and kind is GlobalModel:
            following = None  # an update needs an id
        limits = end.frame_limits()
        if following is None:
            with pytest.raises(MessageRefused):
                end.receive(body)
            return False
        assert len(body) <= (limits.json if kind in JSON else limits.pickle)
        assert type(end.receive(body)) is meant
        self.states[role] = following
        return True

    @invariant()
    def each_end_is_where_it_should_be(self) -> None:
        for role, end in self.ends.items():
            assert end.state is self.states[role]

    @invariant()
    def each_end_expects_what_the_peer_may_say(self) -> None:
        for role, end in self.ends.items():
            expected = {kind for state, kind in LEGAL if state is end.state and kind in SPOKEN[PEER[role]]}
            assert set(end.expected()) == expected
            limits = end.frame_limits()
            assert (limits.json > 0) == any(kind in JSON for kind in expected)
            assert (limits.pickle > 0) == any(kind not in JSON for kind in expected)

    @invariant()
    def what_is_under_way_leads_to_where_its_sender_is(self) -> None:
        if self.forged:
            return
        for role in Role:
            state = self.states[role]
            for kind in self.under_way[role]:
                state = LEGAL[state, kind]
            if self.under_way[role]:
                assert state is self.states[PEER[role]]


class ForgedConversation(HonestEnds):
    """One in which bodies also come from somebody who keeps to nothing."""

    forging = True


SETTINGS = times(1.5, stateful_step_count=30)
TestHonestEnds = HonestEnds.TestCase
TestHonestEnds.settings = SETTINGS
TestForgedMessages = ForgedConversation.TestCase
TestForgedMessages.settings = SETTINGS
