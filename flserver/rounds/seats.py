"""The values that the rules of a round work with. Pure: times are monotonic seconds that somebody else read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Literal

from flserver.events.words import Decision, Participation
from flserver.frozen import frozen
from flserver.identity.peer import Peer
from flserver.models.norms import Norms
from flserver.rounds.backoff import Backoff
from flserver.rounds.sent import LastAnswer as LastAnswer
from flserver.rounds.sent import SentModel as SentModel
from flserver.rounds.weights import Samples, Weight, weigh
from flserver.settings import RoundPolicy

Standing = Literal["absent", "registering", "present", "owing"]
Move = Literal["registers", "is on record", "answers", "misses a deadline", "leaves"]

MOVES: Final[Mapping[Standing, Mapping[Move, Standing]]] = {
    "absent": {"registers": "registering", "answers": "absent"},
    "registering": {"is on record": "present", "leaves": "absent"},
    "present": {"answers": "present", "misses a deadline": "owing", "leaves": "absent"},
    "owing": {"answers": "present", "leaves": "absent"},
}
"""Where a participant stands, and what moves it; ``rules`` explains it."""


@dataclass
class Participant:
    """A client that registered in this run; it ``takes_part`` from the close of a join window on.

    ``unanswered`` is the one model it was sent and has not answered, ``last_answer`` the update that answered the one
    before; ``peer`` registered it in this process, ``since`` then.
    """

    client_id: str
    data_size: int
    registration: int
    standing: Standing = "absent"
    peer: Peer | None = None
    unanswered: SentModel | None = None
    last_answer: LastAnswer | None = None
    takes_part: bool = False
    since: float = 0.0
    backoff: Backoff = field(default_factory=Backoff)

    @property
    def live(self) -> bool:
        """Whether its first connection lives, and its registration is on record."""
        return self.standing in ("present", "owing")

    @property
    def samples(self) -> Samples:
        """What it has, and whose that is, as far as its peer tells."""
        owner = self.peer.owner if self.peer is not None else None
        return Samples(self.client_id, self.data_size, owner or f"client {self.client_id}")

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
        return sent if sent is not None and sent.asks(accepted_at) else None

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
    def inherited(self) -> SentModel | None:
        """The model that it was sent by an earlier server, and has not answered."""
        return self.unanswered if self.unanswered is not None and self.unanswered.inherited else None

    @property
    def owes(self) -> str:
        """Which answer it owes, as text for people."""
        return f"it owes the answer to round {self.unanswered.round}" if self.unanswered else "it owes an answer"

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
    """One invited client in one attempt, and what its samples count for. ``update_id`` and ``norms`` are its answer's,
    and ``decision`` what was decided of that: None while it counts, and ``rejection`` says why it does not. Where there
    is a ``suspicion``, it is ``settled`` later whether it counts. ``node_gone`` says that it had to leave without an
    answer, or lost its answer, with the ingest node that served it."""

    client_id: str
    data_size: int
    registration: int
    weight: Weight
    sent: SentModel | None = None
    left: bool = False
    node_gone: bool = False
    update_id: int | None = None
    decision: Decision | None = None
    answered_at: float | None = None
    norms: Norms | None = None
    rejection: str | None = None
    suspicion: str | None = None
    settled: bool = False

    def take(self, upload: "Upload", now: float, rejection: str | None, suspicion: str | None) -> None:
        """An upload answers its model; it cannot count where there is a ``rejection``."""
        self.update_id, self.answered_at, self.norms = upload.update_id, now, upload.norms
        self.decision, self.rejection = None if rejection is None else "rejected", rejection
        self.suspicion, self.settled = suspicion if rejection is None else None, False

    def reject(self, rejection: str) -> None:
        """Its answer cannot count after all."""
        self.decision, self.rejection, self.suspicion = "rejected", rejection, None

    def lose(self) -> None:
        """Its answer counted and is lost: where it was folded, there is nobody any more."""
        self.decision, self.suspicion, self.node_gone = "lost", None, True

    def clear(self) -> None:
        """Nothing answers it after all."""
        self.update_id = self.answered_at = self.norms = self.decision = self.rejection = self.suspicion = None

    @property
    def counted_size(self) -> int:
        """The samples with which its update is averaged."""
        return self.weight.counted

    @property
    def answered(self) -> bool:
        """Whether an update answered this attempt's model, whatever was decided of it."""
        return self.update_id is not None

    @property
    def awaited(self) -> bool:
        """Whether its answer may still come and is waited for."""
        return not self.answered and not self.left

    @property
    def counts(self) -> bool:
        """Whether its update is averaged if the attempt is committed."""
        return self.answered and self.decision is None

    @property
    def pending(self) -> bool:
        """Whether it is not certain yet that its update counts."""
        return self.suspicion is not None and not self.settled


@dataclass
class Attempt:
    """One try at a round. ``recording`` counts answers decided but not yet on record; ``not_sent`` are the clients that
    are there and not invited, and why; ``suspected`` says whether any answer ever was. ``losing`` counts those decided
    to be lost but not yet on record so; ``sealed`` is one whose end is about to be on record."""

    round: int
    number: int
    started_at: float
    deadline: float
    seats: dict[str, Seat] = field(default_factory=dict)
    not_sent: dict[str, str] = field(default_factory=dict)
    recording: int = 0
    over: bool = False
    suspected: bool = False
    losing: int = 0
    sealed: bool = False

    def __post_init__(self) -> None:
        self._maybe_awaited = [*self.seats.values()]  # who is awaited is among them
        self._answered: list[tuple[float, Seat]] = []  # when the answers came, in that order

    def invite(self, participants: Iterable[Participant], policy: RoundPolicy) -> None:
        """Give each a seat, in this order. What its samples count for depends on who else is invited."""
        invited = [*participants]
        weights = weigh([one.samples for one in invited], policy.max_weight_share, capped=policy.caps_weight)
        for one in invited:
            self.seats[one.client_id] = Seat(one.client_id, one.data_size, one.registration, weights[one.client_id])
        self._maybe_awaited = [*self.seats.values()]

    @property
    def awaits(self) -> bool:
        """Whether anybody is waited for. Who is not will not be again but for :meth:`take_back`, so that over a whole
        attempt every seat is passed once."""
        while self._maybe_awaited and not self._maybe_awaited[-1].awaited:
            self._maybe_awaited.pop()
        return bool(self._maybe_awaited)

    @property
    def there(self) -> int:
        """How many clients are there, invited or not."""
        return len(self.seats) + len(self.not_sent)

    def take(self, seat: Seat, upload: "Upload", now: float, rejection: str | None, suspicion: str | None) -> None:
        """An upload answers one seat's model; the rest is :meth:`Seat.take`'s."""
        seat.take(upload, now, rejection, suspicion)
        self._answered.append((now, seat))
        self.recording, self.suspected = self.recording + 1, self.suspected or seat.suspicion is not None

    def answered_at(self, count: int, *, certain: int) -> float | None:
        """When there were so many answers, and so many of them that are certain to count; None where there are not."""
        if len(self._answered) < count:
            return None
        counting = (at for at, seat in self._answered if seat.counts and not seat.pending)
        last = next(islice(counting, certain - 1, None), None)
        return None if last is None else max(last, self._answered[count - 1][0])

    def take_back(self, upload: "Upload") -> None:
        """An upload answers nothing after all."""
        seat = self.seats.get(upload.client_id)
        if seat is not None and seat.update_id == upload.update_id:
            seat.clear()
            self._maybe_awaited.append(seat)
            self._answered = [(at, other) for at, other in self._answered if other is not seat]


@frozen()
class Registration:
    """A registration that the rules took; ``number`` counts those of this client in this run from 1."""

    client_id: str
    number: int
    rejoined: bool


@frozen(kw_only=True)
class Upload:
    """A complete upload, as far as the rules look at it.

    ``accepted_at`` is when its connection was accepted; ``digest`` is that of its tensors, None where none could be
    read; ``norms`` say how far they are from the model sent, and ``cosine`` how much in the direction of the last
    round's step, if that can be told; ``rejection`` says why its content cannot count, if it cannot; ``base_round`` is
    the round of the model that it was held against, None where it would fit none.
    """

    update_id: int
    client_id: str
    peer: Peer
    accepted_at: float
    digest: str | None
    rejection: str | None = None
    norms: Norms | None = None
    cosine: float | None = None
    base_round: int | None = None


@frozen(kw_only=True)
class Verdict:
    """What an upload is: ``decision`` None means that it counts; ``answers`` is the model that it answers, if any.

    ``data_size`` are its client's samples, ``counted_size`` those that count where it answers the running attempt;
    ``arrived_round`` is the round that was being made when it came, if one was; of a ``suspect`` it is settled later
    whether it counts.
    """

    decision: Decision | None
    reason: str | None
    answers: SentModel | None
    data_size: int
    arrived_round: int | None
    counted_size: int | None = None
    suspect: bool = False

    @property
    def counts(self) -> bool:
        """Whether the upload is an update that is averaged if its attempt is committed."""
        return self.decision is None


@frozen()
class Result:
    """How one seat ended."""

    seat: Seat
    participation: Participation
