"""Hosts as people write them, IPv6 with or without the brackets of a URL and a zone, and what they mean."""

import ipaddress
import socket
from typing import Any

from flserver.errors import UsageError

Address = tuple[socket.AddressFamily, tuple[Any, ...]]
"""A family, and what a socket of it binds or connects to: an IPv6 address has its zone in there."""


class Unresolved(UsageError):
    """Nobody knows this name; that may be for now."""


def bare(host: str) -> str:
    """``host`` without the brackets that an IPv6 address has in a URL."""
    inside = host[1:-1]
    return inside if ":" in inside and host == f"[{inside}]" else host


def with_port(host: str, port: int) -> str:
    """``host`` and ``port`` as one text: an IPv6 address has brackets in it."""
    plain = bare(host)
    return f"[{plain}]:{port}" if ":" in plain else f"{plain}:{port}"


def own_address(listener: socket.socket) -> tuple[str, int]:
    """The host, with its zone where it has one, and the port that ``listener`` is bound to."""
    host, port, *more = listener.getsockname()
    zone = f"%{socket.if_indextoname(more[1])}" if more and more[1] else ""
    return host + zone, port


def addresses(host: str, port: int, option: str) -> list[Address]:
    """What ``host``, the value of ``option``, means: one address or more, IPv4 first.

    Raises Unresolved for a name that does not resolve, UsageError for what can be none.
    """
    try:
        found = socket.getaddrinfo(bare(host), port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise Unresolved(f"{option} {host} does not resolve: {error.strerror}") from error
    except UnicodeError as error:  # no name that can be asked for
        raise UsageError(f"{option} {host}: {error}") from error
    meant = [(family, address) for family, _, _, _, address in found if not _lacks_zone(family, address)]
    if not meant:
        raise UsageError(f"{option} {host} is an address of every network: it needs a zone, as in {bare(host)}%eth0")
    # The protocol's localhost is IPv4: ::1 may be somebody else's port.
    return sorted(meant, key=lambda each: each[0] != socket.AF_INET)


def _lacks_zone(family: socket.AddressFamily, address: tuple[Any, ...]) -> bool:
    """Whether this is a link-local address that does not say on which link."""
    return family == socket.AF_INET6 and ipaddress.ip_address(address[0]).is_link_local and not address[3]
