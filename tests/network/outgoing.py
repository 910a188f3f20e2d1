"""A connection that somebody has made, from a port that nobody else has."""

import contextlib
import socket
import struct
from collections.abc import Iterator

from tests.e2e.harness import free_port
from tests.patience import PATIENCE

AT_ONCE = struct.pack("ii", 1, 0)  # a reset: the port does not wait for what may still be under way


@contextlib.contextmanager
def outgoing(host: str = "127.0.0.1") -> Iterator[socket.socket]:
    """It is over, and its port free at once, after the block or when it is closed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as service:
        # The system gives one port to several connections to different places: others' would have it too.
        own = host, free_port()
        with socket.create_connection(service.getsockname()[:2], PATIENCE, source_address=own) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            yield connection


def port_of(connection: socket.socket) -> int:
    return int(connection.getsockname()[1])
