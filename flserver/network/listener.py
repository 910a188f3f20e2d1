"""The listening socket. It comes first, so that a port in use is said at once, and imports next to nothing: trainers
that connect while torch is still being imported wait in its backlog."""

import contextlib
import os
import socket

from flserver.errors import UsageError

BACKLOG = 1024


class Listener:
    """Listens on ``host`` and ``port`` (0: any free one). Raises UsageError where it cannot."""

    def __init__(self, host: str, port: int) -> None:
        try:
            host.encode("idna")  # or create_server fails of it with an error of another kind, and an open socket
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            # Every address of both kinds, where all are meant.
            both = host == "::" and socket.has_dualstack_ipv6()
            self.socket = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
        except OSError as error:
            # In the system's own words: create_server adds the address to them. A name look-up has no errno.
            look_up = str(error.strerror).partition(" (while ")[0]
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else look_up
            raise UsageError(f"--host {host} --server-port {port}: {reason}") from error
        except UnicodeError as error:  # no name that can be asked for
            raise UsageError(f"--host {host}: {error}") from error

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
