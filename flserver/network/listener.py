"""The listening socket. It comes first, so that a port in use is said at once, and imports next to nothing: trainers
that connect before the server is ready wait in its backlog."""

import contextlib
import errno
import os
import select
import socket
from typing import Any

from flserver.errors import PortBusy, UsageError
from flserver.network.busy_port import connection_on
from flserver.settings.hosts import addresses, own_address

BACKLOG = 65535  # Linux makes it net.core.somaxconn: who comes beyond that tries again, a second and more later


class Listener:
    """Listens on ``host`` (empty: every IPv4 address) and ``port`` (0: any free one).

    Raises UsageError where it cannot, PortBusy where it could if a connection that has the port were over.
    """

    shared = False  # whether other processes accept from it too, so that ``accept`` does not wait

    def __init__(self, host: str, port: int) -> None:
        family, address = addresses(host or "0.0.0.0", port, "--host")[0]
        # Every address of both kinds, where all are meant.
        both = address[0] == "::" and socket.has_dualstack_ipv6()
        try:
            self.socket = socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=both)
        except OSError as error:
            # The errno's own words: create_server adds the address to strerror.
            reason = os.strerror(error.errno) if error.errno else error.strerror
            if error.errno == errno.EADDRINUSE and (leads_to := connection_on(port)) is not None:
                raise PortBusy(
                    f"--host {host} --server-port {port}: {reason} by a connection of another program, to {leads_to}; "
                    f"net.ipv4.ip_local_reserved_ports={port} keeps the port free of them"
                ) from error
            raise UsageError(f"--host {host} --server-port {port}: {reason}") from error

    @property
    def address(self) -> tuple[str, int]:
        """The host and port that are listened on."""
        return own_address(self.socket)

    def accept(self) -> tuple[socket.socket, Any] | None:
        """The next connection, and its peer's address; where it is ``shared``, None for what another process has.
        Raises OSError."""
        return self.socket.accept()

    def await_connection(self, seconds: float | None = None) -> bool:
        """Wait until one can be accepted, or listening is over; False where neither is so after ``seconds``."""
        poll = select.poll()
        with contextlib.suppress(ValueError):  # it was closed just now
            poll.register(self.socket, select.POLLIN)
            return bool(poll.poll(None if seconds is None else 1000 * seconds))
        return True

    def close(self) -> None:
        """Stop listening. May be called again."""
        # A thread blocked in accept wakes by shutdown, not by close.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
