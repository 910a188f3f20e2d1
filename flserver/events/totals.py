"""What the facts of a run come to, as SQL counts them: whoever counts facts goes on from here after a restart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flserver.events.words import Decision, Direction, LeftReason, Outcome, Phase, Purpose, RoundStatus


@dataclass(frozen=True, kw_only=True)
class NodeTotals:
    """Counts of all nodes that were in one slot: how many were ``lost``, the ``connections`` that they accepted, bytes
    of messages on these, and decided ``updates`` by decision."""

    lost: int
    connections: int
    bytes_in: int
    bytes_out: int
    updates: Mapping[Decision, int]


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Counts, sums of bytes and durations (seconds, in no particular order) of one run.

    Keys are the columns' raw values: a header is what the peer sent, or None, and ``rejected`` has whole reasons.
    ``rounds`` counts attempts by status, ``connections`` closed ones by purpose, ``updates`` decided ones by decision,
    ``dropouts`` all registrations that ended, by reason, ``events`` the rows of the run in the record; ``nodes`` are by
    slot.
    """

    rounds: Mapping[RoundStatus, int]
    connections: Mapping[Purpose, int]
    messages: Mapping[tuple[Direction, str | None, Outcome], int]
    message_bytes: Mapping[tuple[Direction, str | None], int]
    updates: Mapping[Decision, int]
    rejected: Mapping[str | None, int]
    dropouts: Mapping[LeftReason, int]
    rejoins: int
    events: int
    round_seconds: Sequence[float]
    phase_seconds: Mapping[Phase, Sequence[float]]
    client_seconds: Sequence[float]
    checkpoint_seconds: Sequence[float]
    nodes: Mapping[int, NodeTotals] = field(default_factory=dict)
