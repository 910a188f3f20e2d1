"""What the system gives this process, and the limits that follow from it, from the settings and from the model."""

import ctypes
import gc
import resource
from contextlib import suppress
from typing import TYPE_CHECKING

from flserver.network import bell
from flserver.network.capacity import Capacity
from flserver.network.context import Limits
from flserver.network.transport import Pace
from flserver.rounds.places import Places
from flserver.settings import NetworkPolicy
from flserver.wire.framing import IMPLAUSIBLE_LENGTH
from flserver.wire.pickles import MOST_MODELS, PickleLimits
from flserver.wire.template import Template

if TYPE_CHECKING:
    from flserver.models.state import State

PICKLE_SLACK = 64 * 1024  # bytes beside twice the model: a sliced parameter drags its whole storage along
SPARE_STEPS = 1000  # modules, and items in them, that a trainer's model may have beside twice ours
SPARE_OPCODES = 250_000  # the same of opcodes: what a trainer keeps in its model's attributes counts too
SPARE_MEMO = SPARE_OPCODES // 2  # the same of values that are kept: each takes an opcode to make and one to keep
SPARE_NESTING = 1_000  # containers inside each other: Python's own pickler goes no deeper by default
USUAL_SPARE = 10_000  # opcodes of what most trainers keep in their models' attributes, and do not wait longer for
USUAL_WEIGHT = 96 * USUAL_SPARE  # bytes that reading these takes
RATE_WINDOW = 30.0  # seconds over which --min-rate is counted
DESCRIPTORS_A_CONNECTION = 1 + bell.DESCRIPTORS  # its socket, and a client's bell or an upload's file
RESERVED_DESCRIPTORS = 160  # the database, checkpoints, signals, and 64 scrapers with what asyncio needs for them
FEWEST_CONNECTIONS = 8  # however few descriptors there are: as few as --max-connections may say
M_ARENA_MAX = -8  # mallopt(3)
ARENAS = 2


def first_limits(network: NetworkPolicy) -> Limits:
    """What one connection may use before there is a model: what follows from that is no number yet."""
    return Limits(
        json=network.max_json_size,
        pickle=network.max_update_size or IMPLAUSIBLE_LENGTH - 1,
        usual=0,
        kept=0,
        tensors=0,
        pickles=PickleLimits(),
        weight=0,
        ordinary=0,
        first_frame=network.first_frame_timeout,
        pace=_pace(network),
        peer_timeout=network.peer_timeout,
    )


def limits_of(network: NetworkPolicy, template: Template, state: "State", parameter_tensors: int) -> Limits:
    """What one connection may use, given the model that trainers are sent: as it travels, its tensors, and how many of
    them are parameters."""
    model, usual = len(template.buffer), 2 * len(template.buffer) + PICKLE_SLACK
    dragged = min(parameter_tensors, MOST_MODELS) * model + PICKLE_SLACK
    return Limits(
        json=network.max_json_size,
        pickle=network.max_update_size or max(usual, dragged),
        usual=usual,
        kept=network.max_update_size or usual,
        tensors=2 * sum(tensor.nbytes for tensor in state.values()) + PICKLE_SLACK,
        # A few kilobytes can name one tensor a hundred thousand times; a trainer's model has the parts of ours.
        pickles=PickleLimits(
            opcodes=2 * template.opcodes + SPARE_OPCODES,
            memo=2 * template.memo + SPARE_MEMO,
            nesting=2 * template.nesting + SPARE_NESTING,
            steps=2 * template.module.steps + SPARE_STEPS,
        ),
        weight=2 * template.weight + USUAL_WEIGHT,
        ordinary=2 * template.opcodes + USUAL_SPARE,
        first_frame=network.first_frame_timeout,
        pace=_pace(network),
        peer_timeout=network.peer_timeout,
    )


def _pace(network: NetworkPolicy) -> Pace:
    window = min(RATE_WINDOW, network.first_frame_timeout)
    return Pace(whole=network.frame_timeout, rate=network.min_rate, window=window)


def capacity_of(network: NetworkPolicy) -> Capacity:
    """How many connections can be served: as many as the settings say, as far as descriptors go."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = max(FEWEST_CONNECTIONS, (soft - RESERVED_DESCRIPTORS) // DESCRIPTORS_A_CONNECTION)
    return Capacity(network.max_connections, network.max_connections_per_address, possible)


def places_of(network: NetworkPolicy, processes: int = 1) -> Places:
    """How many clients can be registered: half of the connections, so that each has a place for its upload too, and no
    more than leave an eighth of the descriptors to uploads, which take turns there. Where so many ``processes`` serve
    them, each has descriptors of its own."""
    possible = processes * capacity_of(network).descriptors_for
    return Places(min(network.max_connections // 2, possible - possible // 8), network.max_clients_per_address)


def allow_descriptors() -> None:
    """Raise the soft limit: the usual one of 1,024 is for programs that call select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # a system that does not let us: it then has fewer participants
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit_arenas() -> None:
    """Keep glibc from giving every thread a heap of its own: with a thread a connection that is memory for nothing."""
    with suppress(OSError, AttributeError):  # another C library: it has no such habit
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


def settle_garbage() -> None:
    """Leave what is there now, a million objects of torch's, out of every later search for garbage: one takes a third
    of a second, in which nothing else runs, and whoever sends many small values brings it about."""
    gc.collect()
    gc.freeze()
