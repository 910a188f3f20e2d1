"""What all sessions share."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

from flserver.events.bus import Recorder
from flserver.identity.rules import Identity
from flserver.network.memory import ReceiveMemory
from flserver.network.preamble import Preamble
from flserver.network.transport import Pace
from flserver.rounds.exchange import Exchange
from flserver.wire.pickles import PickleLimits


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one connection may use.

    ``json`` and ``pickle`` are the longest bodies (bytes). Memory is measured out for updates of ``usual`` bytes; up to
    ``kept`` may stay of a longer one, once what repeats is taken out of it. ``tensors`` is what a model's may hold
    together (bytes), ``pickles`` what reading one may take; ``first_frame`` (seconds) is for its first bytes, ``pace``
    for the rest; ``peer_timeout`` (seconds) is for a machine that does not answer any more.
    """

    json: int
    pickle: int
    usual: int
    kept: int
    tensors: int
    pickles: PickleLimits
    first_frame: float
    pace: Pace
    peer_timeout: float


@dataclass(frozen=True, kw_only=True)
class Context:
    """The parts of the server that a session uses.

    ``tied`` maps the later name of shared weights to the first one. ``message_ids`` and ``update_ids`` give numbers
    unique in the database.
    """

    exchange: Exchange
    recorder: Recorder
    memory: ReceiveMemory
    limits: Limits
    preamble: Preamble
    identity: Identity
    tied: Mapping[str, str]
    message_ids: "count[int]"
    update_ids: "count[int]"
