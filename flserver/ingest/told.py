"""What is said over a line and not answered: *facts*, which go from a node to the desk, and *bells*, from the desk to a
node. Numbers of connections are the node's, numbers of sent models and of models the desk's.
"""

from flserver.events.words import LeftReason
from flserver.frozen import frozen
from flserver.identity.peer import Peer
from flserver.identity.roster import Member
from flserver.ingest.questions import Failure
from flserver.rounds.seats import Registration
from flserver.wire.messages import Measurement

# --- facts -----------------------------------------------------------------------------------------------------------


@frozen()
class Accepted:
    """A connection was accepted; said before anything is read of it."""

    connection: int


@frozen()
class Ended:
    """That connection is over."""

    connection: int


@frozen()
class Emitted:
    """An event, as ``store.payloads`` writes it, and whether it goes ``first``."""

    kind: str
    payload: str
    first: bool


@frozen()
class OnRecord:
    """The registration's events were emitted and flushed: it takes part."""

    registration: Registration


@frozen()
class Left:
    """The registration's connection has ended."""

    registration: Registration
    reason: LeftReason


@frozen()
class TakenBack:
    """The last bytes of that model did not go after all."""

    sent: int


@frozen()
class FullySent:
    """The system has taken all of that model."""

    sent: int


@frozen()
class Confirmed:
    """The events of an upload were emitted, and what counts is ``folded`` or waits at the node; what its client
    measured, and where updates are kept, the digest of what is ``kept``."""

    update_id: int
    folded: bool
    metrics: tuple[Measurement, ...]
    kept: str | None = None


@frozen()
class Withdrawn:
    """The events of an upload could not be emitted: it answers nothing."""

    update_id: int


@frozen()
class Failed:
    """Something of ours failed at the node, which costs the run."""

    error: Failure


@frozen()
class GaveUp:
    """This node cannot go on, which others can: it is to be taken for gone, and why."""

    why: str


@frozen()
class Settled:
    """All that was to be folded in that attempt is: of so many clients. ``blobs`` is the saved sum, where it was asked
    for, as ``batches.of_state`` has it; or the new state's tensors, which is ``made`` of it."""

    round: int
    attempt: int
    clients: int
    blobs: tuple[memoryview, ...] = ()
    made: bool = False


@frozen()
class Given:
    """The tensors of an update that stayed at the node, in the order of the layout."""

    update_id: int
    blobs: tuple[memoryview, ...]


@frozen()
class Ready:
    """The node has the model's layout (``batches.layout_digest``), and can take one."""

    layout: str


@frozen()
class Closed:
    """Nothing more comes: all connections have ended."""


# --- bells -----------------------------------------------------------------------------------------------------------


@frozen()
class Model:
    """A model, under a number of the desk's, of which nothing is to be seen before an attempt begins with it. ``blobs``
    are its tensors' bytes in the order of the layout, or none where they come by another way; ``before`` those of the
    round before, for a node that has not had them."""

    number: int
    blobs: tuple[memoryview, ...]
    before: tuple[memoryview, ...] = ()


@frozen()
class Began:
    """An attempt runs, from the model under that number, which is the round before's."""

    round: int
    attempt: int
    model: int
    digest: str | None


@frozen()
class Ticket:
    """The attempt's model is to be sent to that registration, under the number ``sent``. ``handed_over`` says that the
    last bytes may go at once."""

    registration: Registration
    round: int
    attempt: int
    sent: int
    handed_over: bool


@frozen()
class Goodbye:
    """The run is over for that registration."""

    registration: Registration
    reason: LeftReason


@frozen()
class Known:
    """Who registered that client, and whether it is there; nobody where ``peer`` is None."""

    client_id: str
    peer: Peer | None
    there: bool


@frozen()
class Fold:
    """These updates that wait at the node count: fold them."""

    update_ids: tuple[int, ...]


@frozen()
class Drop:
    """These updates that wait at the node do not count, or are needed no more."""

    update_ids: tuple[int, ...]


@frozen()
class Settle:
    """Say when all that was to be folded in that attempt is: ``Settled``, with the sum where ``whole``; a node that has
    all of it may be asked for the new state that is ``made`` of it instead, which is a quarter as much."""

    round: int
    attempt: int
    whole: bool
    made: bool = False


@frozen()
class Give:
    """Give an update that counts, and stayed at the node: ``Given``."""

    update_id: int


@frozen()
class Room:
    """So many events, of so many characters of payload, were taken into the record."""

    events: int
    size: int


@frozen()
class RecordFailed:
    """The record cannot be written: whoever emits or flushes is told so."""

    text: str


@frozen()
class Reload:
    """Read certificates again; ``clients`` are on the roster from here on, if there is one."""

    clients: tuple[Member, ...] | None


@frozen()
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
