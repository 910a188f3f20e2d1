"""What goes on record of a node that is gone, in its stead: its connections and registrations ended, and what was
folded only there is lost. It is known from the events that the node gave."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from flserver import events
from flserver.events import Event, LostUpdate
from flserver.events.words import Purpose

GONE = "its node is gone"


@dataclass
class _Open:
    """A connection of the node's, as far as its events tell."""

    purpose: Purpose = "unknown"
    client_id: str | None = None
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass
class OnRecord:
    """What of one node is on record, and open there. For one thread."""

    connections: dict[int, _Open] = field(default_factory=dict)
    registrations: dict[tuple[str, int], int] = field(default_factory=dict)  # each with its connection
    updates: set[int] = field(default_factory=set)  # that have a row, and are not ``decided`` yet

    def note(self, event: Event) -> None:
        """One more event of the node's goes on record."""
        match event:
            case events.ConnectionOpened():
                self.connections[event.connection_id] = _Open()
            case events.ConnectionClosed():
                self.connections.pop(event.connection_id, None)
            case events.ClientRegistered():
                self.registrations[event.client_id, event.registration] = event.connection_id
                self._became(event.connection_id, "register", event.client_id)
            case events.ClientLeft():
                self.registrations.pop((event.client_id, event.registration), None)
            case events.MessageReceived() | events.MessageSent():
                if (there := self.connections.get(event.connection_id)) is not None:
                    inwards = isinstance(event, events.MessageReceived)
                    there.bytes_in += event.bytes if inwards else 0
                    there.bytes_out += 0 if inwards else event.bytes
            case events.UpdateReceived():
                self._became(event.connection_id, "upload", event.client_id)
                if event.decision is None:
                    self.updates.add(event.update_id)

    def decided(self, update_id: int) -> None:
        """It is known what becomes of that update: it is held where it counts, and what is held has a row."""
        self.updates.discard(update_id)

    def _became(self, connection_id: int, purpose: Purpose, client_id: str) -> None:
        if (there := self.connections.get(connection_id)) is not None:
            there.purpose, there.client_id = purpose, client_id

    def ends(
        self, node: str, slot: int | None, why: str, lost: Iterable[LostUpdate], held: Collection[int]
    ) -> list[Event]:
        """The events that end all of it, the node's own first; of the ``lost`` those that have a row are on record, as
        those that were ``held`` do."""
        with_row = tuple(one for one in lost if one.update_id in held or one.update_id in self.updates)
        gone: list[Event] = [events.NodeLost(node=node, slot=slot, reason=why, updates=with_row)]
        for (client_id, registration), connection_id in self.registrations.items():
            gone.append(
                events.ClientLeft(
                    client_id=client_id, registration=registration, connection_id=connection_id, reason="node"
                )
            )
        for connection_id, there in self.connections.items():
            gone.append(events.ConnectionClosed(connection_id=connection_id, reason=GONE, **vars(there)))
        self.connections.clear()
        self.registrations.clear()
        return gone
