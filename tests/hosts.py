"""What this machine has of IPv6, for tests that need it."""

import socket
from pathlib import Path

import pytest


def _link_local() -> str | None:
    """A link-local address of this machine with its zone."""
    listed = Path("/proc/net/if_inet6")
    for line in listed.read_text().splitlines() if listed.exists() else ():
        digits, *_, device = line.split()
        if digits.startswith("fe80"):
            return f"{socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))}%{device}"
    return None


def _has_loopback() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


LINK_LOCAL = _link_local()
needs_ipv6 = pytest.mark.skipif(not _has_loopback(), reason="this machine has no ::1")
needs_link_local = pytest.mark.skipif(LINK_LOCAL is None, reason="this machine has no link-local address")
