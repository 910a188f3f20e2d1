"""Who registered which client, found by client and by address without a walk over all. Pure."""

from collections.abc import Iterator, Mapping, MutableMapping, Set
from types import MappingProxyType

from flserver.identity.peer import Peer

NOBODY: Mapping[str, Peer] = MappingProxyType({})


class Registered(MutableMapping[str, Peer]):
    """The peers that registered in this process, by client."""

    def __init__(self, peers: Mapping[str, Peer] = NOBODY) -> None:
        self._peers: dict[str, Peer] = {}
        self._by_host: dict[str, set[str]] = {}
        self.update(peers)

    def at(self, host: str) -> Set[str]:
        """The clients that registered from this address."""
        return self._by_host.get(host, frozenset())

    def __getitem__(self, client_id: str) -> Peer:
        return self._peers[client_id]

    def __setitem__(self, client_id: str, peer: Peer) -> None:
        self.pop(client_id, None)
        self._peers[client_id] = peer
        self._by_host.setdefault(peer.host, set()).add(client_id)

    def __delitem__(self, client_id: str) -> None:
        host = self._peers.pop(client_id).host
        there = self._by_host[host]
        there.remove(client_id)
        if not there:
            del self._by_host[host]

    def __iter__(self) -> Iterator[str]:
        return iter(self._peers)

    def __len__(self) -> int:
        return len(self._peers)
