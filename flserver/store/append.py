"""Events become rows of the record: chained, and with the rows that follow from them, in the caller's transaction."""

import secrets
from collections.abc import Sequence

from sqlalchemy import Connection

from flserver.events import Event
from flserver.store import tables
from flserver.store.chain import Link, payload_digest
from flserver.store.derive import derive, run_of
from flserver.store.derive.statements import Origin, Rows
from flserver.store.prepared import inserting

SALT_BYTES = 16
Head = tuple[int, str]
"""The last event's number and digest."""


def append(
    connection: Connection, rows: Rows, head: Head, entries: Sequence[tuple[Event, str]], run_id: str, process_id: int
) -> Head:
    """Append events, each with its payload, to the chain that ends with ``head``, and write what follows from them.
    Returns the new head. Raises StoreError for what contradicts the record."""
    sequence, digest = head
    recorded = []
    salts = secrets.token_hex(SALT_BYTES * len(entries))
    for at, (event, payload) in enumerate(entries):
        salt = salts[2 * SALT_BYTES * at : 2 * SALT_BYTES * (at + 1)]
        link = Link(
            seq=sequence + 1 + at,
            run_id=run_of(event, run_id),
            process_id=process_id,
            type=type(event).__name__,
            at=event.at,
            payload_digest=payload_digest(salt, payload),
            previous_digest=digest,
        )
        digest = link.digest()
        recorded.append(vars(link) | {"payload": payload, "salt": salt, "digest": digest})
        derive(rows, Origin(link.seq, link.run_id, link.process_id), event)
    inserting(tables.events).run(connection, recorded)
    rows.write()
    return recorded[-1]["seq"], digest
