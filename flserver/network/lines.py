"""Who waits for a turn, so that nobody waits for all that another sends: owner by owner, of each client by client."""

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What waits: of an ``owner``, an address or a certificate, and of a ``client`` among the owner's."""

    @property
    def owner(self) -> Hashable: ...
    @property
    def client(self) -> Hashable: ...


Item = TypeVar("Item", bound=Waiting)


class Line(Generic[Item]):
    """Those that wait: owners one after another, of each its clients one after another, each one's as they came."""

    def __init__(self) -> None:
        self._of: dict[Hashable, dict[Hashable, deque[Item]]] = {}

    def __bool__(self) -> bool:
        return bool(self._of)

    def __iter__(self) -> Iterator[Item]:
        return (item for clients in self._of.values() for items in clients.values() for item in items)

    def holds(self, owner: Hashable) -> bool:
        """Whether one of this owner waits."""
        return owner in self._of

    def put(self, item: Item) -> None:
        """Let it wait."""
        self._of.setdefault(item.owner, {}).setdefault(item.client, deque()).append(item)

    def take(self) -> Item:
        """The next one; its owner, and its client among the owner's, are last from here on. Raises StopIteration where
        there is none."""
        owner = next(iter(self._of))
        clients = self._of.pop(owner)
        client = next(iter(clients))
        items = clients.pop(client)
        item = items.popleft()
        if items:
            clients[client] = items
        if clients:
            self._of[owner] = clients
        return item

    def remove(self, item: Item) -> None:
        """It waits no longer, if it did."""
        clients = self._of.get(item.owner, {})
        items = clients.get(item.client, deque())
        if item in items:
            items.remove(item)
            if not items:
                del clients[item.client]
            if not clients:
                del self._of[item.owner]
