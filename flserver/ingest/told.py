"""What is said over a line and not answered: *facts*, which go from a node to the desk, and *bells*, from the desk to a
node. Numbers of connections are the node's, numbers of sent models and of models the desk's.
"""

from dataclasses import dataclass

from flserver.events.words import LeftReason
from flserver.identity.peer import Peer
from flserver.ingest.questions import Failure
from flserver.rounds.seats import Registration
from flserver.wire.messages import Measurement

# --- facts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Accepted:
    """A connection was accepted; said before anything is read of it."""

    connection: int


@dataclass(frozen=True)
class Ended:
    """That connection is over."""

    connection: int


@dataclass(frozen=True)
class Emitted:
    """An event, as ``store.payloads`` writes it, and whether it goes ``first``."""

    kind: str
    payload: str
    first: bool


@dataclass(frozen=True)
class OnRecord:
    """The registration's events were emitted and flushed: it takes part."""

    registration: Registration


@dataclass(frozen=True)
class Left:
    """The registration's connection has ended."""

    registration: Registration
    reason: LeftReason


@dataclass(frozen=True)
class TakenBack:
    """The last bytes of that model did not go after all."""

    sent: int


@dataclass(frozen=True)
class FullySent:
    """The system has taken all of that model."""

    sent: int


@dataclass(frozen=True)
class Confirmed:
    """The events of an upload were emitted, and what counts is ``folded`` or waits at the node; what its client
    measured, and where updates are kept, the digest of what is ``kept``."""

    update_id: int
    folded: bool
    metrics: tuple[Measurement, ...]
    kept: str | None = None


@dataclass(frozen=True)
class Withdrawn:
    """The events of an upload could not be emitted: it answers nothing."""

    update_id: int


@dataclass(frozen=True)
class Failed:
    """Something of ours failed at the node, which costs the run."""

    error: Failure


@dataclass(frozen=True)
class GaveUp:
    """This node cannot go on, which others can: it is to be taken for gone, and why."""

    why: str


@dataclass(frozen=True)
class Settled:
    """All that was to be folded in that attempt is: of so many clients. ``blobs`` is the saved sum, where it was asked
    for, as ``batches.of_state`` has it; or the new state's tensors, which is ``made`` of it."""

    round: int
    attempt: int
    clients: int
    blobs: tuple[memoryview, ...] = ()
    made: bool = False


@dataclass(frozen=True)
class Given:
    """The tensors of an update that stayed at the node, in the order of the layout."""

    update_id: int
    blobs: tuple[memoryview, ...]


@dataclass(frozen=True)
class Ready:
    """The node has the model's layout, and can take one."""


@dataclass(frozen=True)
class Closed:
    """Nothing more comes: all connections have ended."""


# --- bells -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """A model, under a number of the desk's, of which nothing is to be seen before an attempt begins with it. ``blobs``
    are its tensors' bytes in the order of the layout, or none where they come by another way; ``before`` those of the
    round before, for a node that has not had them."""

    number: int
    blobs: tuple[memoryview, ...]
    before: tuple[memoryview, ...] = ()


@dataclass(frozen=True)
class Began:
    """An attempt runs, from the model under that number, which is the round before's."""

    round: int
    attempt: int
    model: int
    digest: str | None


@dataclass(frozen=True)
class Ticket:
    """The attempt's model is to be sent to that registration, under the number ``sent``. ``handed_over`` says that the
    last bytes may go at once."""

    registration: Registration
    round: int
    attempt: int
    sent: int
    handed_over: bool


@dataclass(frozen=True)
class Goodbye:
    """The run is over for that registration."""

    registration: Registration
    reason: LeftReason


@dataclass(frozen=True)
class Known:
    """Who registered that client, and whether it is there; nobody where ``peer`` is None."""

    client_id: str
    peer: Peer | None
    there: bool


@dataclass(frozen=True)
class Fold:
    """These updates that wait at the node count: fold them."""

    update_ids: tuple[int, ...]


@dataclass(frozen=True)
class Drop:
    """These updates that wait at the node do not count, or are needed no more."""

    update_ids: tuple[int, ...]


@dataclass(frozen=True)
class Settle:
    """Say when all that was to be folded in that attempt is: ``Settled``, with the sum where ``whole``; a node that has
    all of it may be asked for the new state that is ``made`` of it instead, which is a quarter as much."""

    round: int
    attempt: int
    whole: bool
    made: bool = False


@dataclass(frozen=True)
class Give:
    """Give an update that counts, and stayed at the node: ``Given``."""

    update_id: int


@dataclass(frozen=True)
class Room:
    """So many events, of so many characters of payload, were taken into the record."""

    events: int
    size: int


@dataclass(frozen=True)
class RecordFailed:
    """The record cannot be written: whoever emits or flushes is told so."""

    text: str


@dataclass(frozen=True)
class Reload:
    """Read certificates and roster again."""


@dataclass(frozen=True)
class Close:
    """The run is over: nobody is let in any more, sessions have so many seconds to say goodbye, and then ``Closed`` is
    the last that is said."""

    grace: float


Fact = (
    Accepted
    | Ended
    | Emitted
    | OnRecord
    | Left
    | TakenBack
    | FullySent
    | Confirmed
    | Withdrawn
    | Failed
    | GaveUp
    | Settled
    | Given
    | Ready
    | Closed
)
Bell = Model | Began | Ticket | Goodbye | Known | Fold | Drop | Settle | Give | Room | RecordFailed | Reload | Close
