"""The values that the rules of a round work with."""

from dataclasses import dataclass, field

from flserver.events.words import Decision, Participation
from flserver.identity.peer import Peer


@dataclass(eq=False)
class SentModel:
    """A model on its way to one registration. ``handed_over_at`` is set just before its last bytes are sent: an
    upload whose connection was accepted earlier cannot be its answer."""

    round: int
    attempt: int
    handed_over_at: float | None = None
    fully_sent_at: float | None = None


@dataclass(frozen=True)
class Answer:
    """The update that settled a model: a later one for the same model is a duplicate."""

    round: int
    digest: str


@dataclass
class Participant:
    """A client of this run. ``unanswered`` is the one model it was sent and has not answered, ``answer`` the update
    that answered the one before; ``peer`` registered it in this process."""

    client_id: str
    data_size: int
    registration: int
    live: bool = False
    pending: bool = False
    peer: Peer | None = None
    unanswered: SentModel | None = None
    answer: "Answer | None" = None
    owes: bool = False


@dataclass
class Seat:
    """One invited client in one attempt. ``answer`` is the decision of what it answered, or ``counts``."""

    client_id: str
    data_size: int
    registration: int
    sent: SentModel | None = None
    left: bool = False
    answer: str | None = None
    update_id: int | None = None
    answered_at: float | None = None


@dataclass
class Attempt:
    """One try at a round (times in monotonic seconds). ``recording`` counts answers decided but not yet on record."""

    round: int
    number: int
    started_at: float
    deadline: float
    seats: dict[str, Seat] = field(default_factory=dict)
    not_sent: tuple[str, ...] = ()
    recording: int = 0
    over: bool = False


@dataclass(frozen=True)
class Registration:
    """An admitted registration; ``number`` counts those of this client in this run from 1."""

    client_id: str
    number: int
    rejoined: bool


@dataclass(frozen=True)
class Verdict:
    """What an upload is: ``decision`` None means that it counts; ``answers`` is the model that it answers, if any."""

    decision: Decision | None
    reason: str | None
    answers: SentModel | None
    data_size: int
    registration: int
    arrived_round: int | None


@dataclass(frozen=True)
class Result:
    """How one seat ended."""

    seat: Seat
    participation: Participation
