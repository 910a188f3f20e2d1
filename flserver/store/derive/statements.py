"""What the derivations write with: the rows of a transaction, and the few statements that they become.

Building a statement takes longer than writing a row. So a transaction's rows are collected, each is written once,
however often it was changed, and each statement is compiled once in a process and given many rows.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple, cast, get_type_hints

from sqlalchemy import Connection, Table

from flserver.errors import StoreError
from flserver.events import Event
from flserver.store import tables as t
from flserver.store.derive.attempts import OpenAttempts
from flserver.store.prepared import changing, inserting, key_parameters


class Origin(NamedTuple):
    """Where an event stands in the record: its number there, its run, and the server process that wrote it."""

    seq: int
    run_id: str
    process_id: int


Row = dict[str, Any]
Key = Any
"""The value of a table's primary key: of a column, or a tuple of several columns' in their order in the table."""


class Rows:
    """The rows that a transaction inserts and changes; :meth:`write` writes them.

    ``attempts`` are those that run, as the events so far have them. ``connection`` is the one of the transaction; after
    one that was rolled back another object has to take this one's place. ``gaps`` says that events before are missing,
    purged or not what they were: what is not there contradicts nothing then, and a change of it is dropped.
    """

    gaps = False

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.attempts = OpenAttempts.of(connection)
        self._clear()

    def _clear(self) -> None:
        self._inserts: dict[Table, list[Row]] = defaultdict(list)
        self._inserted: dict[Table, dict[Key, Row]] = defaultdict(dict)
        self._changes: dict[Table, dict[Key, Row]] = defaultdict(dict)
        self._unset: dict[tuple[Table, Key], tuple[str, ...]] = {}
        self._puts: dict[Table, list[Row]] = defaultdict(list)

    def insert(self, table: Table, row: Row) -> None:
        """Insert ``row``, of which columns that are not there are NULL."""
        self._inserts[table].append(row)
        self._inserted[table][key_getter(table)(row)] = row

    def insert_from(self, event: Event, table: Table, origin: Origin, **values: Any) -> None:
        """Insert a row: the event's fields go to the columns of their names, ``values`` to the others."""
        # What has no column of its name is not looked at.
        self.insert(table, {"run_id": origin.run_id, **vars(event), **values})

    def change(self, table: Table, key: Key, values: Mapping[str, Any], unset: str | None = None) -> None:
        """Set ``values`` in the row with that primary key; where ``unset`` names a column, that is NULL so far.

        Raises StoreError, here or in :meth:`write`, where there is no such row.
        """
        row = self._inserted[table].get(key)
        new = row is not None
        if row is None:
            row = self._changes[table].setdefault(key, {})
        if unset is not None:
            if row.get(unset) is not None and not self.gaps:
                raise _missing(table, 1, key)
            if not new and unset not in row:
                self._unset[table, key] = (*self._unset.get((table, key), ()), unset)
        row.update(values)

    def put(self, table: Table, row: Row) -> None:
        """Insert a metric. Of several with one primary key the last stands: where a round is tried again, the last
        answer's."""
        self._puts[table].append(row)

    def write(self) -> None:
        """Write what was collected; nothing is, afterwards. Raises StoreError where a row to change is not there."""
        for table in t.DERIVED:  # parents before children
            if rows := self._inserts.get(table):
                inserting(table).run(self.connection, rows)
            self._write_changes(table)
            if rows := self._puts.get(table):
                inserting(table, or_update=True).run(self.connection, rows)
        self._clear()

    def _write_changes(self, table: Table) -> None:
        alike: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Row]] = defaultdict(list)
        for key, values in self._changes.get(table, {}).items():
            alike[tuple(values), self._unset.get((table, key), ())].append(values | _by_key(table, key))
        for (columns, unset), rows in alike.items():
            if changing(table, columns, unset).run(self.connection, rows) != len(rows) and not self.gaps:
                raise _missing(table, len(rows), [tuple(row.values())[len(columns) :] for row in rows[:3]])


Derivations = Mapping[type[Event], Callable[[Rows, Origin, Any], None]]
"""By an event's type, the function that adds the rows that follow from it."""


def shared(event: Event, table: Table) -> Row:
    """The event's fields that have a column of their name in ``table``."""
    values, kind = vars(event), cast(Hashable, type(event))
    return {name: values[name] for name in _shared(table, kind)}


@cache
def _shared(table: Table, kind: Any) -> tuple[str, ...]:
    return tuple(name for name in get_type_hints(kind) if name in table.c)


def _missing(table: Table, count: int, keys: object) -> StoreError:
    return StoreError(f"{table.name} has no open row for each of {count} with {keys}")


@cache
def key_getter(table: Table) -> Callable[[Row], Key]:
    """What gives the key of a row of ``table``."""
    return itemgetter(*table.primary_key.columns.keys())


def _by_key(table: Table, key: Key) -> Row:
    """The parameters by which :func:`~flserver.store.prepared.changing` finds a row."""
    names = key_parameters(table)
    return dict(zip(names, key, strict=True)) if len(names) > 1 else {names[0]: key}
