"""What a node asks the coordinator's desk, and what it is answered: a closed set of frozen values.

Questions are answered in the order in which they were asked; a ``Flush`` when it is done. ``told`` has what is said
besides and not answered, ``batches`` their bytes. No time of one machine is compared with another's: where it matters
what came first, it is what the desk heard first, and durations go as seconds.
"""

from typing import Literal

from flserver.events.words import Decision
from flserver.frozen import frozen
from flserver.identity.peer import Peer
from flserver.models.norms import Norms
from flserver.rounds.seats import Registration

IdKind = Literal["message_id", "connection_id", "update_id"]


# --- questions -------------------------------------------------------------------------------------------------------


@frozen()
class Register:
    """Reserve a registration: ``Registered``. Its trainer ``holds`` a model of the server before, if it does."""

    client_id: str
    data_size: int
    peer: Peer
    holds: "Holds | None" = None


@frozen()
class Holds:
    """A model that an earlier server sent to a trainer: in which attempt, and its digest (``CurrentModel``)."""

    round: int
    attempt: int
    digest: str | None


@frozen()
class HandOver:
    """The last bytes of the model sent under this number are about to go: ``Done``, and only then may they."""

    sent: int


@frozen()
class Offer:
    """Decide what an upload is: ``Decided``, or ``Stale`` where it was held against another model than the running
    attempt's, the one of ``base_round``. ``connection`` is the one that it came on."""

    update_id: int
    client_id: str
    peer: Peer
    connection: int
    digest: str | None
    rejection: str | None
    norms: Norms | None
    cosine: float | None
    base_round: int | None


@frozen()
class Reject:
    """What was offered and counts cannot, for that reason: ``Decided``."""

    update_id: int
    rejection: str


@frozen()
class ExpectUpload:
    """As whose an upload could count: ``Expected``."""

    peer: Peer


@frozen()
class Sender:
    """Whose an upload is that cannot be used: ``SentBy``."""

    client_id: str | None
    peer: Peer


@frozen()
class NotAsked:
    """Whose an upload is that can only be a duplicate: ``SentBy``."""

    peer: Peer
    connection: int


@frozen()
class CheckUpload:
    """Whether this peer may upload for that client: ``Done``."""

    client_id: str
    peer: Peer


@frozen()
class Flush:
    """Everything emitted before is to be durable: ``Done``, when it is."""


@frozen()
class MoreIds:
    """Numbers that nobody else gives: ``Ids``."""

    kind: IdKind


# --- answers ---------------------------------------------------------------------------------------------------------


@frozen()
class Done:
    """It is so."""


@frozen()
class Registered:
    """The registration that was reserved."""

    registration: Registration


@frozen()
class Expected:
    """``identity.rules.Share``."""

    owner: str
    clients: int


@frozen()
class SentBy:
    """The client, or None, and then whose it could be."""

    client_id: str | None
    could_be: tuple[str, ...] = ()


@frozen()
class Answers:
    """The model that an upload answers; it was handed over ``ago`` seconds before this was said, if it was."""

    round: int
    attempt: int
    ago: float | None


@frozen()
class Decided:
    """``rounds.seats.Verdict``."""

    decision: Decision | None
    reason: str | None
    answers: Answers | None
    data_size: int
    arrived_round: int | None
    counted_size: int | None
    suspect: bool


@frozen()
class Stale:
    """Hold the upload against the model that has come meanwhile, and offer it again."""


@frozen()
class Ids:
    """``count`` numbers from ``first`` on."""

    first: int
    count: int


@frozen()
class Failure:
    """An error of ``errors``, by its name; ``told`` is what the trainer is told, where that is less."""

    kind: str
    text: str
    told: str | None = None


Question = Register | HandOver | Offer | Reject | ExpectUpload | Sender | NotAsked | CheckUpload | Flush | MoreIds
Answer = Done | Registered | Expected | SentBy | Decided | Stale | Ids | Failure
