"""Both ends of what a server asks of a node's process, in one."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from flserver.process.nodes.calls import Answering, Caller, Does
from tests.patience import PATIENCE


@contextmanager
def between(does: Mapping[str, Does], name: str = "node-1") -> Iterator[tuple[Caller, Answering]]:
    """Who asks the node of that name, and who answers with what ``does`` it."""
    ours, its = socket.socketpair()
    caller, answering = Caller(ours, name, PATIENCE), Answering(its, does)
    caller.start()
    answering.start()
    try:
        yield caller, answering
    finally:
        caller.close()
        answering.close()


def descriptors() -> int:
    """How many are open in this process."""
    return len(os.listdir("/proc/self/fd"))
