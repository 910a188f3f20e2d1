"""One simulated trainer's life: it registers, answers what it is sent as its script says, leaves, and comes back."""

from collections.abc import Callable
from typing import Literal, Protocol

from flserver.errors import Refused
from flserver.simulation.answers import Piece
from flserver.simulation.bodies import Bodies, Body, Frames
from flserver.simulation.loop import Call, Ended, Link
from flserver.simulation.script import ABSURD_SAMPLES, Member, What, answer_counts
from flserver.simulation.uploads import Uploads
from flserver.wire.framing import encode_length
from flserver.wire.messages import Error, Finished, Success, encode_metadata

AGAIN = 0.05  # seconds, doubled with each try: until the server has noticed that the old connection ended
TRIES = 12

Take = Callable[[list[Piece]], None]
State = Literal["outside", "asking", "joined", "away", "over"]


class Surroundings(Protocol):
    """What a trainer needs of the process that it is in."""

    bodies: Bodies
    uploads: Uploads
    round: int

    def link(self, client_id: str, ended: Ended) -> Link: ...
    def after(self, seconds: float, call: Call) -> None: ...
    def count(self, client_id: str, *what: What) -> None: ...
    def note(self, text: str) -> None: ...
    def begins(self, round: int) -> None: ...
    def registered(self, trainer: "Trainer", run: str | None) -> None: ...
    def replied(self) -> None: ...
    def when_it_may(self, trainer: "Trainer", round: int, answer: Call) -> None: ...
    def settled(self, trainer: "Trainer") -> None: ...
    def make_answer(self, trainer: "Trainer", body: Body, round: int, take: Take) -> None: ...
    def finished(self) -> None: ...
    def is_over(self, trainer: "Trainer") -> None: ...


class Trainer:
    """``member`` says what it does; ``samples`` is how many it really has."""

    def __init__(self, member: Member, samples: int, around: Surroundings) -> None:
        self.member, self.samples = member, samples
        self.state: State = "outside"
        self._around = around
        self._link: Link | None = None
        self._frames, self._last = Frames(around.bodies), 0  # the last round whose model came, or will not
        self._has_left = False
        self._tries = 0
        self._first: list[Piece] | None = None  # of its answers, where it goes on sending that

    @property
    def sends_twice(self) -> bool:
        return self.member.lie == "duplicate"

    def register(self) -> None:
        """Ask to take part, for the first time or again."""
        self.state = "asking"
        self._frames, self._last = Frames(self._around.bodies), self._around.round
        link = self._link = self._around.link(self.member.id, self._ended)
        samples = ABSURD_SAMPLES if self.member.lie == "samples" else self.samples
        body = encode_metadata(self.member.id, samples, {})
        link.send([encode_length(len(body)), body], lambda: None)
        link.read(self._take)

    def come_back(self) -> None:
        if self.state == "away":
            self.register()

    def _take(self, data: bytes) -> None:
        try:
            for body in self._frames.feed(data):
                self._read(body)
                if self.state not in ("asking", "joined"):
                    return
        except Refused as error:
            self._around.note(str(error))
            self._end()

    def _read(self, body: Body) -> None:
        message = body.message
        if self.state == "asking":
            self._reply(message)
        elif isinstance(message, Finished):
            self._around.finished()
            if not message.complete:
                self._around.note("the server stopped in the middle of the run")
            self._end()
        else:
            self._last = round = self._around.bodies.round_of(body, self._last)
            self._around.begins(round)
            self._model(body, round)

    def _reply(self, message: object) -> None:
        if isinstance(message, Success):
            self.state = "joined"
            self._around.registered(self, message.run)
            if self._has_left:
                self._around.count(self.member.id, "came back")
                self._around.settled(self)
        elif isinstance(message, Error):
            self._refused(message.msg)
        if not self._has_left:
            self._around.replied()

    def _refused(self, why: str) -> None:
        assert self._link is not None
        self._link.close()
        if self._has_left and self._tries < TRIES:
            self._tries += 1
            self.state = "away"
            self._around.after(AGAIN * 2**self._tries, self.come_back)
            return
        if not self._has_left:
            self._around.count(self.member.id, "refused")
        if self.member.takes_part:
            self._around.note(f"refused: {why}")
        self._end()

    # --- rounds ------------------------------------------------------------------------------------------------------

    def _model(self, body: Body, round: int) -> None:
        out = self.member.drop_out
        if out is None or out.round != round or self._has_left:
            answer = lambda: self._around.make_answer(self, body, round, self._send)  # noqa: E731
            later = lambda: self._around.after(self.member.lag, answer)  # noqa: E731
            self._around.when_it_may(self, round, later if self.member.lag else answer)
        elif out.when == "before":
            self._leave()
        else:
            self._around.make_answer(
                self, body, round, lambda pieces: self._around.uploads.half(self.member.id, pieces, self._leave)
            )

    def _send(self, pieces: list[Piece]) -> None:
        if self.state != "joined":
            return
        if self.member.lie == "stale":
            self._first = self._first or [bytes(piece) for piece in pieces]
            pieces = self._first

        def done() -> None:
            self._around.count(self.member.id, *answer_counts(self.member))
            if self.sends_twice:
                self._around.settled(self)

        self._around.uploads.whole(self.member.id, pieces, done, copies=1 + self.sends_twice)

    def _leave(self) -> None:
        if self.state != "joined":
            return
        assert self._link is not None
        assert self.member.drop_out is not None
        self._link.close(reset=self.member.drop_out.when == "during")
        self._has_left = True
        self._around.count(self.member.id, "dropped")
        returns_in = self.member.drop_out.returns_in
        if returns_in is None:
            self._end()
        else:
            self.state = "away"
            if returns_in <= self._around.round:
                self.come_back()
            self._around.is_over(self)

    # --- ends --------------------------------------------------------------------------------------------------------

    def _ended(self, why: str) -> None:
        """The first connection ended, and not by us."""
        if self.state == "asking" and not self._has_left:
            self._around.replied()
            self._around.note(why or "the server closed the connection of a trainer that registered")
        else:
            self._around.note(why or "the server closed the connection of a trainer that took part")
        self._end()

    def _end(self) -> None:
        if self._link is not None:
            self._link.close()
        self.state = "over"
        self._around.settled(self)
        self._around.is_over(self)
