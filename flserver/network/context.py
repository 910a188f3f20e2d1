"""What every session works with."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

from flserver.events.bus import Bus
from flserver.identity.rules import Identity
from flserver.network.memory import ReceiveMemory
from flserver.network.preamble import Introduction
from flserver.network.transport import Pace
from flserver.rounds.exchange import Exchange
from flserver.wire.pickles import PickleLimits


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one connection may use (bytes, seconds)."""

    json: int
    pickle: int
    tensors: int
    pickles: PickleLimits
    first_frame: float
    pace: Pace
    peer_timeout: float


@dataclass(frozen=True, kw_only=True)
class Desk:
    """The parts of the server that a session uses. ``message_ids`` and ``update_ids`` give numbers unique in the
    database."""

    exchange: Exchange
    bus: Bus
    memory: ReceiveMemory
    limits: Limits
    introduction: Introduction
    identity: Identity
    tied: Mapping[str, str]
    message_ids: "count[int]"
    update_ids: "count[int]"
