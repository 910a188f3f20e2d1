"""The values that the rules of a round work with. Pure: times are monotonic seconds that somebody else read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from flserver.events.words import Decision, Participation
from flserver.identity.peer import Peer

Standing = Literal["absent", "registering", "present", "owing"]
Move = Literal["registers", "is on record", "answers", "misses a deadline", "leaves"]

MOVES: Final[Mapping[Standing, Mapping[Move, Standing]]] = {
    "absent": {"registers": "registering", "answers": "absent"},
    "registering": {"is on record": "present", "leaves": "absent"},
    "present": {"answers": "present", "misses a deadline": "owing", "leaves": "absent"},
    "owing": {"answers": "present", "leaves": "absent"},
}
"""Where a participant stands, and what moves it; ``rules`` explains it."""


@dataclass(eq=False)
class SentModel:
    """A model on its way to one registration. ``handed_over_at`` is set just before its last bytes are sent: an
    upload whose connection was accepted earlier cannot be its answer."""

    round: int
    attempt: int
    handed_over_at: float | None = None
    fully_sent_at: float | None = None


@dataclass(frozen=True)
class LastAnswer:
    """The upload that settled a model: a later one for the same model is a duplicate."""

    round: int
    digest: str | None


@dataclass
class Participant:
    """A client that registered in this run.

    ``unanswered`` is the one model it was sent and has not answered, ``last_answer`` the update that answered the one
    before; ``peer`` registered it in this process.
    """

    client_id: str
    data_size: int
    registration: int
    standing: Standing = "absent"
    peer: Peer | None = None
    unanswered: SentModel | None = None
    last_answer: LastAnswer | None = None

    @property
    def live(self) -> bool:
        """Whether its first connection lives, and its registration is on record."""
        return self.standing in ("present", "owing")

    def answer(self, sent: SentModel, digest: str | None) -> None:
        """An upload with that digest answers the model."""
        self.unanswered, self.last_answer = None, LastAnswer(sent.round, digest)
        self.move("answers")

    def take_back(self, sent: SentModel, digest: str | None) -> None:
        """It does not after all. Where the client has registered again, that model is not its own any more."""
        if self.last_answer == LastAnswer(sent.round, digest):
            self.unanswered, self.last_answer = self.unanswered or sent, None

    def asked(self, accepted_at: float) -> SentModel | None:
        """The model that an upload can answer whose connection was accepted then: none that was handed over later."""
        sent = self.unanswered
        early = sent is None or sent.handed_over_at is None or accepted_at < sent.handed_over_at
        return None if early else sent

    def why_duplicate(self, digest: str | None) -> str:
        """Why an upload with that digest is a duplicate, where it can answer no model of this client."""
        answer = self.last_answer
        if self.unanswered is not None:
            return "connected before the model was sent"
        if answer is None:
            return "no model of this client is unanswered"
        if digest is None:
            return f"not read: an update has answered round {answer.round}"
        same = "the same update as" if digest == answer.digest else "another update than"
        return f"{same} the one that answered round {answer.round}"

    @property
    def training(self) -> bool:
        """Whether it is there and has not answered the model that it was sent."""
        return self.live and self.unanswered is not None

    def move(self, move: Move) -> None:
        """Take a step of the table. Raises ValueError for one that is not in it: a defect of ours."""
        if move not in MOVES[self.standing]:
            raise ValueError(f"client {self.client_id}, {self.standing}: {move}")
        self.standing = MOVES[self.standing][move]


@dataclass
class Seat:
    """One invited client in one attempt. ``update_id`` is its answer's, and ``decision`` what was decided of it: None
    while it counts."""

    client_id: str
    data_size: int
    registration: int
    sent: SentModel | None = None
    left: bool = False
    update_id: int | None = None
    decision: Decision | None = None
    answered_at: float | None = None

    @property
    def answered(self) -> bool:
        """Whether an update answered this attempt's model, whatever was decided of it."""
        return self.update_id is not None

    @property
    def counts(self) -> bool:
        """Whether its update is averaged if the attempt is committed."""
        return self.answered and self.decision is None


@dataclass
class Attempt:
    """One try at a round. ``recording`` counts answers decided but not yet on record; ``not_sent`` are the clients that
    owe an older answer and are not invited."""

    round: int
    number: int
    started_at: float
    deadline: float
    seats: dict[str, Seat] = field(default_factory=dict)
    not_sent: tuple[str, ...] = ()
    recording: int = 0
    over: bool = False

    def take_back(self, upload: "Upload") -> None:
        """An upload answers nothing after all."""
        seat = self.seats.get(upload.client_id)
        if seat is not None and seat.update_id == upload.update_id:
            seat.update_id = seat.decision = seat.answered_at = None

    def too_heavy(self, seat: Seat, share: float) -> str | None:
        """Why a client's update is rejected where it has more than this share (0 to 1) of the samples invited."""
        invited = sum(other.data_size for other in self.seats.values())
        if seat.data_size <= share * invited:
            return None
        return f"weight_share: {seat.data_size} of the {invited} samples invited is more than a share of {share:g}"


@dataclass(frozen=True)
class Registration:
    """A registration that the rules took; ``number`` counts those of this client in this run from 1."""

    client_id: str
    number: int
    rejoined: bool


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A complete upload, as far as the rules look at it.

    ``accepted_at`` is when its connection was accepted; ``digest`` is that of its tensors, None where none could be
    read; ``rejection`` says why its content cannot count, if it cannot.
    """

    update_id: int
    client_id: str
    peer: Peer
    accepted_at: float
    digest: str | None
    rejection: str | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What an upload is: ``decision`` None means that it counts; ``answers`` is the model that it answers, if any.

    ``data_size`` (samples) is the weight it has or would have had; ``arrived_round`` the round that was being made when
    it came, if one was.
    """

    decision: Decision | None
    reason: str | None
    answers: SentModel | None
    data_size: int
    arrived_round: int | None

    @property
    def counts(self) -> bool:
        """Whether the upload is an update that is averaged if its attempt is committed."""
        return self.decision is None


@dataclass(frozen=True)
class Result:
    """How one seat ended."""

    seat: Seat
    participation: Participation
