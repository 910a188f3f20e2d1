"""Events behind the head of the chain: their rows, what follows from them, the tree over them, and signed heads."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from flserver.events import Event, HeadSigned
from flserver.heads.tree import Frontier
from flserver.store import tables, tree
from flserver.store.chain import GENESIS, canonical, payload_digest, sha256_of
from flserver.store.derive import derive, run_of
from flserver.store.derive.statements import Origin, Rows
from flserver.store.payloads import to_payload
from flserver.store.prepared import inserting

SALT_BYTES = 16

Signs = Callable[[Sequence[Event], Frontier], HeadSigned | None]
"""What a transaction with these events ends with: a head of the tree that they leave, or nothing."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain stands: its last digest, and the tree over all of them, which counts the events."""

    digest: str = GENESIS
    tree: Frontier = field(default_factory=Frontier)


def signs_nothing(events: Sequence[Event], tree: Frontier) -> HeadSigned | None:
    """No head is signed."""
    return None


@dataclass(frozen=True, slots=True)
class Appending:
    """Appends the events of the server process ``process_id``; those that name no run are of ``run_id``."""

    run_id: str
    process_id: int
    sign: Signs

    def append(self, rows: Rows, head: Head, batch: Sequence[tuple[Event, str]]) -> tuple[Head, Sequence[Event]]:
        """Write events, each with its payload, behind ``head``, and a signed head where one is due, in the transaction
        of ``rows``. Returns the new head, and all events that were written."""
        events = [event for event, _ in batch]
        head = self._append(rows, head, batch)
        if signed := self.sign(events, head.tree):
            head = self._append(rows, head, [(signed, to_payload(signed))])
            events.append(signed)
        rows.write()
        return head, events

    def _append(self, rows: Rows, head: Head, batch: Sequence[tuple[Event, str]]) -> Head:
        digest = head.digest
        recorded: list[dict[str, Any]] = []
        salts = secrets.token_hex(SALT_BYTES * len(batch))
        for at, (event, payload) in enumerate(batch):
            salt = salts[2 * SALT_BYTES * at : 2 * SALT_BYTES * (at + 1)]
            origin = Origin(head.tree.size + 1 + at, run_of(event, self.run_id), self.process_id)
            row: dict[str, Any] = {
                "seq": origin.seq,
                "run_id": origin.run_id,
                "process_id": origin.process_id,
                "type": type(event).__name__,
                "at": event.at,
                "payload_digest": payload_digest(salt, payload),
                "previous_digest": digest,
            }
            digest = sha256_of(canonical(**row))
            row |= {"payload": payload, "salt": salt, "digest": digest}
            recorded.append(row)
            derive(rows, origin, event)
        inserting(tables.events).run(rows.connection, recorded)
        grown, nodes = head.tree.extended(tree.leaf(row["digest"]) for row in recorded)
        tree.keep(rows.connection, nodes)
        return Head(digest, grown)
