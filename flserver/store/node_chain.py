"""PURE: which events of a record are an ingest node's, and what they add up to in their order: a hash chain of its own,
whose length and head a round's commit names."""

import json
from collections.abc import Mapping
from typing import Any

from flserver.store.chain import sha256_of

NOTHING = sha256_of(b"")
"""The head of a node that has given no event."""


class NodeChain:
    """The events that one node gave to one server process. For one thread; ``now`` may be read by others."""

    def __init__(self, count: int = 0, head: str = NOTHING) -> None:
        self.now = count, head

    def add(self, kind: str, payload: str) -> None:
        """One more, of that type and with that payload."""
        count, head = self.now
        self.now = count + 1, follow(head, link(kind, payload))


def link(kind: str, payload: str) -> str:
    """An event as it stands in the chain of its node."""
    return sha256_of(f"{kind}\n{payload}".encode())


def follow(head: str, link: str) -> str:
    """The head after one more event."""
    return sha256_of(f"{head}\n{link}".encode())


class Owners:
    """Whose the events are of one server process, as they come in the record's order: what happened on a connection is
    of the node that accepted it, and some events name their node."""

    def __init__(self) -> None:
        self._connections: dict[int, str] = {}

    def node_of(self, kind: str, payload: str) -> str | None:
        """The node whose event it is; None where it is the server's own."""
        values: Mapping[str, Any] = json.loads(payload)
        connection_id, node = values.get("connection_id"), values.get("node")
        if kind == "ConnectionOpened" and node is not None:
            self._connections[values["connection_id"]] = node
        if connection_id is None:
            return node
        if kind == "ConnectionClosed":
            return self._connections.pop(connection_id, None)
        return self._connections.get(connection_id)
