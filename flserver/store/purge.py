"""Payloads, and the text from outside that rests on them, removed for good; the chain and everything else stays.

What is purged are events about connections, messages, registrations and updates, each about one client at most. Those
about runs, rounds and operators name several clients or none, and stay.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Table

from flserver import events as e
from flserver.events.words import HEADERS, REJECTED_KINDS
from flserver.settings.places import Place
from flserver.store import tables as t
from flserver.store import tree
from flserver.store.appending import Appending, Head, signs_nothing
from flserver.store.chain import sha256_of
from flserver.store.database import Lock, at
from flserver.store.derive import derive
from flserver.store.derive.attempts import OpenAttempts
from flserver.store.derive.statements import Key, Origin, Row, Rows, key_getter
from flserver.store.payloads import canonical_json, from_payload, to_payload
from flserver.store.ranges import Ranges
from flserver.store.sqlite import driver_of, store_errors
from flserver.text import printable

PURGEABLE = (
    *(e.ConnectionOpened, e.PeerIdentified, e.ConnectionClosed, e.StrangersSummed, e.MessageReceived, e.MessageSent),
    *(e.ClientRegistered, e.ClientLeft, e.UpdateReceived, e.SuspectRejected),
)
PURGEABLE_NAMES = frozenset(kind.__name__ for kind in PURGEABLE)
_OF_A_CONNECTION = ("peer_host", "peer_port", "proxy_host", "certificate_subject", "certificate_fingerprint")
FROM_OUTSIDE: Mapping[str, Mapping[str, Sequence[str]]] = {
    "connections": dict.fromkeys((*_OF_A_CONNECTION, "close_reason"), ()),
    "clients": {"info": (), "label": (), "metadata": ()},
    "messages": {"header": HEADERS, "reason": ()},
    "updates": {"reason": REJECTED_KINDS},
    "client_rounds": {"reason": REJECTED_KINDS},
    "summaries": {"prefix": ()},
}
"""By table, the columns with text from outside: it becomes NULL, but for a word of a closed set that it begins with."""
RESTING = frozenset({*FROM_OUTSIDE, "client_metrics"})
"""The tables whose rows can rest on an event that can be purged."""
NOBODY = 0
"""The process of events that no server process wrote."""
ROWS_OF_AN_EVENT = 5000
PAGE = 1000


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which events of ``run_id``: those before ``before`` (a time as on record), and of ``client_id``; None: all."""

    run_id: str
    before: str | None = None
    client_id: str | None = None


@dataclass
class Purge:
    """What of one run goes: the numbers of the events, and by table the keys of the rows that rest on them."""

    sequences: Ranges = field(default_factory=Ranges)
    rows: dict[Table, dict[Key, None]] = field(default_factory=dict)

    @property
    def row_count(self) -> int:
        return sum(map(len, self.rows.values()))


class Touched(Rows):
    """Rows that are not written: which ones an event inserts or changes."""

    gaps = True

    def __init__(self) -> None:
        self.attempts = OpenAttempts()
        self.keys: list[tuple[Table, Key]] = []

    def insert(self, table: Table, row: Row) -> None:
        self.keys.append((table, key_getter(table)(row)))

    def put(self, table: Table, row: Row) -> None:
        self.insert(table, row)

    def change(self, table: Table, key: Key, values: Mapping[str, Any], unset: str | None = None) -> None:
        self.keys.append((table, key))


def row_digest(table: Table, row: Mapping[str, Any]) -> str:
    """``sha256:hex`` of a row as canonical JSON, without the columns that are NULL: a new one changes nothing."""
    kept = {name: value for name, value in row.items() if value is not None}
    return sha256_of(canonical_json({"table": table.name, "row": kept}).encode())


def rows_of(event: e.Event, origin: Origin) -> list[tuple[Table, tuple[Any, ...]]]:
    """The keys of the rows that rest on an event of a kind that can be purged."""
    touched = Touched()
    derive(touched, origin, event)
    return [(table, tuple(map(_as_text, key if isinstance(key, tuple) else (key,)))) for table, key in touched.keys]


def find(connection: Connection, selection: Selection) -> Purge:
    """What a selection means, and nothing is changed."""
    found = Purge()
    mine = _connections_of(connection, selection)
    for origin, event in _payloads(connection, selection):
        if selection.client_id is not None and not _is_about(event, selection.client_id, mine):
            continue
        found.sequences.add(origin.seq)
        for table, key in rows_of(event, origin):
            found.rows.setdefault(table, {})[key] = None
    return found


def preview(place: Place, selection: Selection) -> Purge:
    """What a selection means in the database at ``place``; nothing is written. Raises StoreError."""
    with store_errors(f"{place} cannot be read"), at(place).reading_engine().connect() as connection:
        return find(connection, selection)


def purge(
    place: Place,
    selections: Sequence[Selection],
    told: Sequence[tuple[str, e.Event]],
    left_over: Sequence[str],
    lock: Lock | None = None,
) -> Head:
    """Remove what the selections mean, in one transaction with the events that say so, and with what else is ``told``
    of runs after them. Runs that are ``left_over`` are closed first. The caller holds the ``lock``, to the end of the
    transaction, or nothing is removed.

    The text is in free pages and in the WAL until ``overwrite``. Returns the chain's head. Raises StoreError.
    """
    with store_errors(f"{place} could not be purged"):
        database = at(place)
        with database.writing_engine(held=lock).connect() as connection:
            database.scrub(connection)
            with connection.begin():
                head = _head(connection)
                for run_id in left_over:
                    ended = e.RunLeftOver(run_id=run_id, reason="server stopped")
                    head = _append(connection, head, [ended], run_id)
                for selection in selections:
                    found = find(connection, selection)
                    if found.sequences:
                        said = list(_remove(connection, selection.run_id, found))
                        head = _append(connection, head, said, selection.run_id)
                for run_id, event in told:
                    head = _append(connection, head, [event], run_id)
                database.keep_head(connection, head.tree.size, head.digest)
    return head


def overwrite(place: Place) -> None:
    """Leave nothing of what went in free pages or in the WAL. The caller holds the lock.

    Raises StoreError where that could not be done, because somebody reads the database say: it can be tried again.
    """
    again = f"what is purged is on record, and {place} could still hold text of it in free pages or the -wal file"
    with store_errors(f"{again}: end whoever reads it, and give the same command again"):
        at(place).overwrite()


def _remove(connection: Connection, run_id: str, found: Purge) -> Iterator[e.Event]:
    for seq in found.sequences:
        _ask(connection, "UPDATE events SET payload = NULL, salt = NULL WHERE seq = ?", (seq,))
    resting = []
    for table, keys in found.rows.items():
        names = list(table.primary_key.columns.keys())
        by = " AND ".join(f"{name} = ?" for name in names)
        cleared = _cleared(table)
        for key in keys:
            if cleared:
                _ask(connection, f"UPDATE {table.name} SET {cleared} WHERE {by}", key)
            select = f"SELECT {', '.join(table.c.keys())} FROM {table.name} WHERE {by}"
            for row in _ask(connection, select, key).fetchall():
                digest = row_digest(table, dict(zip(table.c.keys(), row, strict=True)))
                resting.append(e.RestingRow(table=table.name, key=key, digest=digest))
    ranges = tuple((first, last) for first, last in found.sequences.ranges)
    yield e.PayloadsPurged(run_id=run_id, sequences=ranges, rows=tuple(resting[:ROWS_OF_AN_EVENT]))
    for start in range(ROWS_OF_AN_EVENT, len(resting), ROWS_OF_AN_EVENT):
        more = tuple(resting[start : start + ROWS_OF_AN_EVENT])
        yield e.PayloadsPurged(run_id=run_id, sequences=(), rows=more)


def _cleared(table: Table) -> str:
    """What becomes of a table's columns with text from outside."""

    def value(column: str, words: Sequence[str]) -> str:
        if not words:
            return "NULL"
        known = ", ".join(f"'{word}'" for word in words)
        first = f"substr({column}, 1, instr({column} || ':', ':') - 1)"
        return f"CASE WHEN {first} IN ({known}) THEN {first} END"

    columns = FROM_OUTSIDE.get(table.name, {})
    return ", ".join(f"{column} = {value(column, words)}" for column, words in columns.items())


def _payloads(connection: Connection, selection: Selection) -> Iterator[tuple[Origin, e.Event]]:
    """The run's events that can be purged and are not yet, in their order."""
    kinds = ", ".join(f"'{name}'" for name in sorted(PURGEABLE_NAMES))
    page = f"""
        SELECT seq, process_id, type, payload FROM events
        WHERE seq > ? AND run_id = ? AND type IN ({kinds}) AND payload IS NOT NULL
            AND (CAST(? AS TEXT) IS NULL OR at < ?)
        ORDER BY seq LIMIT {PAGE}"""
    last = 0
    while rows := _ask(connection, page, (last, selection.run_id, selection.before, selection.before)).fetchall():
        for seq, process_id, kind, payload in rows:
            yield Origin(seq, selection.run_id, process_id), from_payload(kind, payload)
        last = rows[-1][0]


def _connections_of(connection: Connection, selection: Selection) -> set[int]:
    query = "SELECT connection_id FROM connections WHERE run_id = ? AND client_id = ?"
    return {row[0] for row in _ask(connection, query, (selection.run_id, selection.client_id))}


def _is_about(event: e.Event, client_id: str, connections: set[int]) -> bool:
    """Whether an event is about that client: it names it, or one of its connections and nobody else."""
    named = getattr(event, "client_id", None)
    return named == client_id or (named is None and getattr(event, "connection_id", None) in connections)


def _head(connection: Connection) -> Head:
    digest = connection.exec_driver_sql("SELECT digest FROM events ORDER BY seq DESC LIMIT 1").scalar_one()
    return Head(str(digest), tree.frontier_of(connection))


def _ask(connection: Connection, statement: str, values: tuple[Any, ...]) -> Any:
    """The answer to a statement with a ``?`` for each value; in SQLite the driver's own, which is quicker."""
    if connection.dialect.name == "sqlite":
        return driver_of(connection).execute(statement, values)
    return connection.exec_driver_sql(statement.replace("?", "%s"), values)


def _append(connection: Connection, head: Head, said: Sequence[e.Event], run_id: str) -> Head:
    entries = [(event, to_payload(event)) for event in said]
    return Appending(run_id, NOBODY, signs_nothing).append(Rows(connection), head, entries)[0]


def _as_text(value: Any) -> Any:
    """A key as the table has it."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def unfounded(event: e.PayloadsPurged, gone: Ranges) -> str | None:
    """What an event says was purged and cannot have been; ``gone`` are the purgeable events before it, of its run,
    without a payload. None where it can."""
    for first, last in event.sequences:
        if first > last or not gone.covers(first, last):
            return f"it says that the payloads of events {first} to {last} were purged, which they were not"
    for row in event.rows:
        if row.table not in RESTING:
            return f"it says that a purge has left a row of {printable(row.table)}, which none touches"
    return None


def sealing(event: e.PayloadsPurged) -> Iterator[tuple[Table, tuple[Any, ...], str]]:
    """The rows that a purge has left, with their digests."""
    by_name = {table.name: table for table in t.DERIVED}
    for row in event.rows:
        yield by_name[row.table], row.key, row.digest
