"""Who makes room in a server that is full, and whose place nobody can take. Pure."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from flserver.identity.peer import Peer


@dataclass(frozen=True)
class Capacity:
    """How many connections have places, in all and of one address; and for how many there are descriptors, where who
    comes waits when they are taken, and is not refused."""

    in_all: int
    an_address: int
    descriptors_for: int

    @property
    def at_once(self) -> int:
        """How many are served at once."""
        return min(self.in_all, self.descriptors_for)


class Served(Protocol):
    """A connection, as far as is looked at here; ``silent`` until its first message is whole."""

    @property
    def connection_id(self) -> int: ...
    @property
    def peer(self) -> Peer: ...
    @property
    def registered(self) -> bool: ...
    @property
    def silent(self) -> bool: ...
    @property
    def first_bytes(self) -> int: ...


Connection = TypeVar("Connection", bound=Served)


@dataclass(frozen=True)
class Clients:
    """``known`` are the peers that registered clients in this process, ``there`` those of them that are there now."""

    known: Collection[Peer]
    there: Collection[Peer]


def kept_for_uploads(served: Iterable[Connection], there: Iterable[Peer]) -> set[Connection]:
    """The connections that hold the place which each registered client has for its upload.

    A certificate says whose it is; without one the clients of an address have its places together. Who has sent most
    holds them: so neither a flood from elsewhere nor one from a trainer's own address reaches its upload.
    """
    of_certificate, of_host, kept = Counter[str](), Counter[str](), set()
    for peer in there:
        of_host[peer.host] += 1
        if peer.certificate is not None:
            of_certificate[peer.certificate.fingerprint] += 1
    uploads = [one for one in served if not one.registered]
    uploads.sort(key=lambda one: (one.peer.certificate is None, one.silent, -one.first_bytes, -one.connection_id))
    for one in uploads:
        certificate = one.peer.certificate
        places, owner = (of_host, one.peer.host) if certificate is None else (of_certificate, certificate.fingerprint)
        if places[owner] > 0:
            of_host[one.peer.host] -= 1
            of_certificate[owner] -= certificate is not None
            kept.add(one)
    return kept


def who_goes(
    served: Collection[Connection], going: Collection[Connection], clients: Clients, near: Callable[[Peer], bool]
) -> list[Connection] | None:
    """Which connections can be cut for a newcomer, in the order in which they go; None: there is no room for it.

    Those go whose first message is not whole, but for the uploads that have a place. Strangers first; then those of the
    address that has the most of them; those that sent least; the oldest. ``going`` are cut already, and hold no place.

    A newcomer for whom there may be such a place, because from where it comes (``near``) more clients are there than
    uploads, finds room always: others go whose message is whole, and where all who can are going already it is let in
    before they are gone. Where the places of those clients are taken, one goes that no certificate calls its own: it
    may be nobody's upload.
    """
    served = [one for one in served if one not in going]
    kept = kept_for_uploads(served, clients.there)
    own = [one for one in kept if near(one.peer)]
    hosts = {peer.host for peer in clients.known}
    can_go = [one for one in served if not (one.registered or one in kept)]
    if silent := _least_first(can_go, hosts):
        return silent
    if sum(map(near, clients.there)) > len(own):
        return sorted(can_go, key=lambda one: one.connection_id)
    return _least_first([one for one in own if one.peer.certificate is None], hosts) or None


def _least_first(connections: Iterable[Connection], known_hosts: Collection[str]) -> list[Connection]:
    """Those of the connections whose first message is not whole, in the order in which they go."""
    silent = [one for one in connections if one.silent]
    of_host = Counter(one.peer.host for one in silent)
    return sorted(
        silent,
        key=lambda one: (one.peer.host in known_hosts, -of_host[one.peer.host], one.first_bytes, one.connection_id),
    )
