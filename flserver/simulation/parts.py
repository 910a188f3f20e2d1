"""How a fleet is split: which trainers are played where, and from which address they come. Pure."""

import ipaddress
import json
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from flserver.errors import FlserverError
from flserver.settings import hosts
from flserver.simulation.script import Member, part_of, to_line

END_SECONDS: Final = 60.0  # until a process has ended whose part is over, or that was told to
MOST_NAMED: Final = 8  # trainers in a line
PORTS_A_TRAINER: Final = 3  # of an address: for its connection, its upload, and the one before, which is remembered

Line = Mapping[str, Any]
"""What a part says, see ``simulation.crowd``."""


class FleetError(FlserverError):
    """A part of the fleet, or its server, failed; the message has what it said."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """``members`` are part ``number`` of ``of``, and play against ``where``: the address, and not its name, which could
    mean another machine by now. They come from the address ``source``, or from where the system says. ``tls`` is
    what ``simulation.tls.Tls`` is told."""

    number: int
    of: int
    members: Sequence[Member]
    where: hosts.Address
    source: str | None = None
    training: Mapping[str, Any] | None = None
    tls: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return f"part {self.number} of {self.of} of the fleet, {named([one.id for one in self.members])},"

    def to_line(self) -> str:
        """As JSON, for whoever plays it."""
        told = {"members": [*map(to_line, self.members)], "where": self.where}
        return json.dumps(told | {"source": self.source, "training": self.training, "tls": self.tls})


class Player(Protocol):
    """Somebody who plays a part, elsewhere."""

    def lines(self) -> Iterator[Line]:
        """What it says, to its end. Raises FleetError."""

    def tell_to_end(self) -> None: ...
    def end(self) -> None:
        """Wait for its end; ``lines`` has one then."""

    def close(self) -> None: ...


def split(
    members: Sequence[Member],
    parts: int,
    where: hosts.Address,
    training: Mapping[str, Any] | None = None,
    tls: Mapping[str, Any] | None = None,
    *,
    ports: int,
) -> list[Part]:
    """So many parts, at most, none of them empty: trainer 1, 2, 3, … of the script are in part 1, 2, 3, … in turn. An
    address has ``ports`` for connections."""
    parts = min(parts, len(members))
    sources = sources_of(where, len(members), parts, ports)
    return [
        Part(
            number=number,
            of=parts,
            members=part_of(members, number, parts),
            where=where,
            source=source,
            training=training,
            tls=tls,
        )
        for number, source in enumerate(sources, 1)
    ]


def sources_of(where: hosts.Address, trainers: int, parts: int, ports: int) -> list[str | None]:
    """From which address each part's trainers come: from one of its own, 127.0.0.1 and so on, where one has too few
    ports for all, and the server is on this machine, in whose network all of 127.0.0.0/8 are this machine."""
    if trainers * PORTS_A_TRAINER <= ports or where[0] != socket.AF_INET or not is_loopback(where):
        return [None] * parts
    first = ipaddress.IPv4Address("127.0.0.1")
    return [str(first + number) for number in range(parts)]


def is_loopback(where: hosts.Address) -> bool:
    """Whether this address is each machine's own."""
    return ipaddress.ip_address(str(where[1][0]).partition("%")[0]).is_loopback


def named(clients: Collection[str]) -> str:
    """So many trainers, and who the first of them are."""
    first = list(clients)[:MOST_NAMED]
    more = len(clients) - len(first)
    whose = f"{', '.join(first)}{f' and {more:,} more' if more else ''}"
    return f"{len(clients):,} trainer{'s' * (len(clients) > 1)} ({whose})"
