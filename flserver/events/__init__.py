"""What happened, as typed facts in the past tense.

``runs``, ``connections`` and ``rounds`` hold the facts, ``words`` every closed set of words in them, ``totals`` what
the facts of a run come to, ``bus`` who is told. Every fact is emitted once. The recorder writes it into the ``events``
table and derives the rows of the other tables from it in the same transaction; metrics and console see it after that
transaction committed.

Units: durations in seconds, sizes in bytes on the wire with the 8 of the length, accuracies and weights 0 to 1, times
as ``clock.utc_now`` writes them, digests as ``algorithm:hex``.
"""

from flserver.events.connections import (
    ClientLeft,
    ClientRegistered,
    ConnectionClosed,
    ConnectionOpened,
    MessageReceived,
    MessageSent,
    PeerIdentified,
    StrangersSummed,
)
from flserver.events.event import Event
from flserver.events.rounds import (
    AttemptAborted,
    AttemptStarted,
    CheckpointDeleted,
    ClientMetric,
    ClientOutcome,
    KeptUpdate,
    KeptUpdatesDeleted,
    LostUpdate,
    NodeHead,
    NodeLost,
    RoundCommitted,
    RoundMetric,
    SuspectRejected,
    SuspectsCount,
    UpdateReceived,
    WeightConcentrated,
)
from flserver.events.runs import (
    HeadSigned,
    NodeEnded,
    NodeStarted,
    OperatorActed,
    PayloadsPurged,
    QuorumSettled,
    RestingRow,
    RunEnded,
    RunLeftOver,
    RunResumed,
    RunStarted,
    ServerStarted,
    ServerStopped,
    StateChanged,
    Waited,
)

__all__ = [
    "AttemptAborted",
    "AttemptStarted",
    "CheckpointDeleted",
    "ClientLeft",
    "ClientMetric",
    "ClientOutcome",
    "ClientRegistered",
    "ConnectionClosed",
    "ConnectionOpened",
    "Event",
    "HeadSigned",
    "KeptUpdate",
    "KeptUpdatesDeleted",
    "LostUpdate",
    "MessageReceived",
    "MessageSent",
    "NodeEnded",
    "NodeHead",
    "NodeLost",
    "NodeStarted",
    "OperatorActed",
    "PayloadsPurged",
    "PeerIdentified",
    "QuorumSettled",
    "RestingRow",
    "RoundCommitted",
    "RoundMetric",
    "RunEnded",
    "RunLeftOver",
    "RunResumed",
    "RunStarted",
    "ServerStarted",
    "ServerStopped",
    "StateChanged",
    "StrangersSummed",
    "SuspectRejected",
    "SuspectsCount",
    "UpdateReceived",
    "Waited",
    "WeightConcentrated",
]
