"""Every closed set of words that the rules, the record and the metrics share, each once.

Where a set is iterated over, its members stand in a tuple of the plural name. A reason is free text beyond its kind:
what stands here of reasons are the kinds that ``/metrics`` counts by. The sets that the wire needs stand in its own
modules, because it imports nothing of ours but ``errors``; here they have their second name.
"""

from typing import Final, Literal, get_args

from flserver.errors import Cause
from flserver.wire import framing, messages

# --- the run ---------------------------------------------------------------------------------------------------------

RunState = Literal["joining", "running", "waiting", "completed", "interrupted", "failed"]
RUN_STATES: Final[tuple[RunState, ...]] = get_args(RunState)

RunStatus = Literal["running", "completed", "interrupted", "failed"]
"""``v1_runs.status``."""

Awaited = Literal["registrations", "participants", "updates"]
"""What clients are waited for to do: to register, to come back so that a round can begin, to answer."""

OperatorAct = Literal[
    "start", "resume", "override", "stop", "reload", "keep-updates", "upgrade", "downgrade", "restore", "purge",
    "export",
]  # fmt: skip
"""``v1_operator_events.kind``."""

# --- connections and messages ----------------------------------------------------------------------------------------

Purpose = Literal["register", "upload", "unknown"]
PURPOSES: Final[tuple[Purpose, ...]] = get_args(Purpose)

Transport = Literal["tcp", "tls"]
IdentityKind = Literal["claimed", "authenticated"]
Direction = Literal["in", "out"]
DIRECTIONS: Final[tuple[Direction, ...]] = get_args(Direction)

StrangerReason = Literal[
    "silent", "broken_off", "cut", "not_served", "handshake", "frame", "message", "pickle", "size", "identity",
    "registration", "other",
]  # fmt: skip
"""Why a connection became neither a registration nor an update: it said nothing, ended in the middle of its message,
made room for another or was there at the server's stop, found no place, or what was wrong with what it said."""

Encoding = framing.Encoding
Outcome = Literal["ok", "refused", "failed"]
OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)

OTHER: Final = "other"
HEADERS: Final = (
    messages.Metadata.header,
    messages.Success.header,
    messages.Error.header,
    messages.GlobalModel.header,
    messages.Finished.header,
    OTHER,
)
"""The headers that ``/metrics`` tells apart."""

DropoutReason = Literal[Cause, "protocol", "node"]
DROPOUT_REASONS: Final[tuple[DropoutReason, ...]] = ("closed", "reset", "timeout", "protocol", "node", "other")
"""``node``: the ingest node that had the connection is gone."""

OrderlyReason = Literal["finished", "stopped", "server stopped"]
ORDERLY_REASONS: Final[tuple[OrderlyReason, ...]] = get_args(OrderlyReason)
"""A registration that ends so is no drop-out. The last is SQL's where a server died with the client connected."""

LeftReason = Literal[DropoutReason, OrderlyReason]
"""``v1_clients.left_reason``."""

# --- rounds and updates ----------------------------------------------------------------------------------------------

RoundStatus = Literal["running", "committed", "aborted"]
"""``v1_rounds.status``."""
ROUND_ENDS: Final[tuple[RoundStatus, ...]] = ("committed", "aborted")

Phase = Literal["broadcast", "wait", "aggregate", "evaluate", "checkpoint"]
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)

Decision = Literal["accepted", "late", "duplicate", "rejected", "aborted", "lost"]
DECISIONS: Final[tuple[Decision, ...]] = get_args(Decision)
"""An update that counts has none until its attempt ends. One is ``lost`` where what it was folded into is gone with its
node."""

RejectedKind = Literal["names", "shape", "dtype", "non_finite", "norm", "weight_share", "unreadable", "size", "other"]
REJECTED_KINDS: Final[tuple[RejectedKind, ...]] = get_args(RejectedKind)
"""What the reason of a rejected update begins with."""


def rejected(kind: RejectedKind, why: str) -> str:
    """A reason as the record has it; ``/metrics`` counts what stands before the colon."""
    return f"{kind}: {why}"


Participation = Literal["answered", "dropped", "timed_out", "not_sent", "cut_short"]
MeasuredOn = messages.MeasuredOn
MetricSource = Literal["server", "evaluate", "clients"]
"""``v1_round_metrics.source``."""
