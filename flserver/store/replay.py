"""All derived tables made anew from the record."""

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, RowMapping, bindparam, delete, select

from flserver.errors import StoreError
from flserver.store import tables as t
from flserver.store.derive import derive
from flserver.store.derive.statements import Origin, Rows
from flserver.store.payloads import from_payload

REPLAY_PAGE = 1000  # events in memory at once


def rederive(connection: Connection) -> None:
    """Make every derived table anew from the record, in the transaction that ``connection`` is in.

    Raises StoreError where a payload was purged (what it held is gone, the tables would lose it too), cannot be read,
    or contradicts the events before it.
    """
    for table in reversed(t.DERIVED):
        connection.execute(delete(table))
    rows = Rows(connection)
    for page in _recorded(connection):
        for row in page:
            if row["payload"] is None:
                raise StoreError(f"event {row['seq']} was purged: the tables cannot be made anew from the record")
            origin = Origin(row["seq"], row["run_id"], row["process_id"])
            derive(rows, origin, from_payload(row["type"], row["payload"]))
        rows.write()


def _recorded(connection: Connection) -> Iterator[Sequence[RowMapping]]:
    last = 0
    page = select(t.events).where(t.events.c.seq > bindparam("last")).order_by(t.events.c.seq).limit(REPLAY_PAGE)
    while rows := connection.execute(page, {"last": last}).mappings().all():
        yield rows
        last = rows[-1]["seq"]
