"""What the system gives this process, and the limits that follow from it and from the model."""

import ctypes
import resource
from contextlib import suppress

PICKLE_SLACK = 64 * 1024  # bytes beside twice the model: a sliced parameter drags its whole storage along
SPARE_STEPS = 1000  # modules, and items in them, that a trainer's model may have beside twice ours
RATE_WINDOW = 30.0  # seconds over which --min-rate is counted
RESERVED_DESCRIPTORS = 160
M_ARENA_MAX = -8  # mallopt(3)


def _limit_arenas() -> None:
    """Keep glibc from giving every thread a heap of its own: with a thread a connection that is memory for nothing."""
    with suppress(OSError, AttributeError):  # another C library: it has no such habit
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def _allow_descriptors() -> None:
    """A participant holds three descriptors; the usual soft limit of 1,024 is for programs that call select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # a system that does not let us: it then has fewer participants
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _connections_possible() -> int:
    """A participant has a socket, a bell of two, and perhaps an update in a file; the database needs some too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(8, (soft - RESERVED_DESCRIPTORS) // 4)
