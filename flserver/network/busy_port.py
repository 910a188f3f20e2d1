"""A port that nobody listens on and that cannot be had all the same: a connection that goes out from here has it.

The system gives such connections ports of a range, which the trainers' port may lie in. Linux says in two tables who
has a port; where there are none, a port in use counts as one that somebody listens on.
"""

import ipaddress
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))  # those of this process's network namespace
LISTENING, ESTABLISHED = "0A", "01"
SHOWN = 3


class Socket(NamedTuple):
    """A row of the tables: the socket's own port, where it leads to as ``address:port``, and its state."""

    port: int
    leads_to: str
    state: str


def connection_on(port: int) -> str | None:
    """Where a connection leads to (``address:port``) that has ``port`` here; None where somebody listens on that port,
    on whatever address, or there is no such connection. Several can have one port, if they lead to different places:
    those that are open come first."""
    sockets = [found for found in _sockets() if found.port == port]
    if any(found.state == LISTENING for found in sockets):
        return None
    sockets.sort(key=lambda found: found.state != ESTABLISHED)
    return " and ".join([*dict.fromkeys(found.leads_to for found in sockets)][:SHOWN]) or None


def _sockets() -> Iterator[Socket]:
    for table in TABLES:
        try:
            _, *rows = table.read_text(encoding="ascii").splitlines()
        except (OSError, ValueError):
            continue
        for row in rows:
            _, own, other, state, *_ = row.split()
            yield Socket(_address(own)[1], "{}:{}".format(*_address(other)), state)


def _address(text: str) -> tuple[str, int]:
    """Address and port of ``0100007F:C384``: words of 32 bits as they stand in memory, then a plain number."""
    words, port = text.split(":")
    raw = bytes.fromhex(words)
    if sys.byteorder == "little":
        raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    address = ipaddress.ip_address(raw)
    plain = getattr(address, "ipv4_mapped", None) or address
    return f"[{plain}]" if plain.version == 6 else str(plain), int(port, 16)
