"""The listening socket. It comes first, so that a port in use is said at once, and imports next to nothing: trainers
that connect before the server is ready wait in its backlog."""

import contextlib
import errno
import os
import select
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from flserver.errors import PortBusy, PortTaken, UsageError
from flserver.network.busy_port import connection_on
from flserver.settings.hosts import addresses, own_address

BACKLOG = 65535  # Linux makes it net.core.somaxconn: who comes beyond that tries again, a second and more later


class Listener:
    """Listens on ``host`` (empty: every IPv4 address) and ``port`` (0: any free one), alone, or ``beside`` others of
    this user's who say so too: each connection is one's of them, by the addresses at both of its ends.

    Raises UsageError where it cannot, PortTaken where somebody else listens there, PortBusy where it could if a
    connection that has the port were over.
    """

    shared = False  # whether other processes accept from it too, so that ``accept`` does not wait

    def __init__(self, host: str, port: int, *, beside: bool = False) -> None:
        family, address, both = _meant(host, port)
        with _errors(host, port):
            self.socket = socket.create_server(
                address, family=family, backlog=BACKLOG, dualstack_ipv6=both, reuse_port=beside
            )

    @property
    def address(self) -> tuple[str, int]:
        """The host and port that are listened on."""
        return own_address(self.socket)

    @property
    def door(self) -> Sequence[socket.socket]:
        """What can be read from where somebody has come."""
        return (self.socket,)

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


class Beside(Listener):
    """Has ``host`` and ``port`` beside others who listen there ``beside`` each other, without listening itself. Nobody
    else has the port as long as it is there. Raises as ``Listener``."""

    def __init__(self, host: str, port: int) -> None:
        family, address, both = _meant(host, port)
        self.socket = socket.socket(family)
        try:
            with _errors(host, port):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if both:
                    self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                self.socket.bind(address)
        except BaseException:
            self.socket.close()
            raise

    @property
    def door(self) -> Sequence[socket.socket]:
        """See :attr:`Listener.door`: nobody comes here."""
        return ()


class Reservation(Listener):
    """Has ``host`` and ``port`` as a listener has them, alone, but lets others listen there ``beside`` it: nobody comes
    to it. Nobody who does not say ``beside`` has the port as long as it is there. Raises as ``Listener``."""

    def __init__(self, host: str, port: int) -> None:
        if not port:
            with contextlib.closing(Listener(host, 0)) as free:
                _, port = free.address
        self.socket = Listener(host, port).socket
        # Of sockets that only are bound, as many have a port as like to, where each may use it again. One that has
        # listened keeps its port, where it asked for that one, and the system looks at what it allows from then on.
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    @property
    def door(self) -> Sequence[socket.socket]:
        """See :attr:`Listener.door`: nobody comes here."""
        return ()


def _meant(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...], bool]:
    """Family and address, and whether every address of both kinds is meant."""
    family, address = addresses(host or "0.0.0.0", port, "--host")[0]
    return family, address, address[0] == "::" and socket.has_dualstack_ipv6()


@contextlib.contextmanager
def _errors(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # The errno's own words: create_server adds the address to strerror.
        reason = os.strerror(error.errno) if error.errno else error.strerror
        if error.errno != errno.EADDRINUSE:
            raise UsageError(f"--host {host} --server-port {port}: {reason}") from error
        if (leads_to := connection_on(port)) is not None:
            raise PortBusy(
                f"--host {host} --server-port {port}: {reason} by a connection of another program, to {leads_to}; "
                f"net.ipv4.ip_local_reserved_ports={port} keeps the port free of them"
            ) from error
        raise PortTaken(
            f"--host {host} --server-port {port}: {reason}: end what listens there (ss -ltnp shows it), or give another"
        ) from error
