"""The listening socket. It comes first, so that a port in use is said at once, and imports next to nothing: trainers
that connect while torch is still being imported wait in its backlog."""

import contextlib
import os
import socket

from flserver.errors import UsageError
from flserver.settings.hosts import addresses

BACKLOG = 1024


class Listener:
    """Listens on ``host`` (empty: every IPv4 address) and ``port`` (0: any free one). Raises UsageError where it
    cannot."""

    def __init__(self, host: str, port: int) -> None:
        family, address = addresses(host or "0.0.0.0", port, "--host")[0]
        # Every address of both kinds, where all are meant.
        both = address[0] == "::" and socket.has_dualstack_ipv6()
        try:
            self.socket = socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=both)
        except OSError as error:
            # The errno's own words: create_server adds the address to strerror.
            reason = os.strerror(error.errno) if error.errno else error.strerror
            raise UsageError(f"--host {host} --server-port {port}: {reason}") from error

    @property
    def address(self) -> tuple[str, int]:
        """The host and port that are listened on."""
        host, port = self.socket.getsockname()[:2]
        return host, port

    def close(self) -> None:
        """Stop listening. May be called again."""
        # A thread blocked in accept wakes by shutdown, not by close.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
