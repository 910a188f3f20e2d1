"""The few statements that the derivations are made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Insert, Table, Update, bindparam, insert, null, update

from flserver.errors import StoreError
from flserver.events import Event
from flserver.store.sqlite import insert_or_update


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an event stands in the record: its number there, its run, and the server process that wrote it."""

    seq: int
    run_id: str
    process_id: int


Derivations = Mapping[type[Event], Callable[[Connection, Origin, Any], None]]
"""By an event's type, the function that writes the rows that follow from it."""


@cache
def _columns(table: Table) -> frozenset[str]:
    return frozenset(table.c.keys())


@cache
def _insert(table: Table) -> Insert:
    return insert(table)


def shared(event: Event, table: Table) -> dict[str, Any]:
    """The event's fields that have a column of their name in ``table``."""
    columns = _columns(table)
    return {name: value for name, value in vars(event).items() if name in columns}


def insert_row(connection: Connection, table: Table, origin: Origin, event: Event, **values: Any) -> None:
    """Insert a row into ``table``: the event's fields go to the columns of their names, ``values`` to the others."""
    connection.execute(_insert(table), shared(event, table) | {"run_id": origin.run_id} | values)


@cache
def _update(table: Table, keys: str, columns: str, unset: str | None = None) -> Update:
    """``UPDATE`` of ``columns`` by ``keys``, whose parameters are called ``key_…``, where ``unset`` is still NULL."""
    by = [table.c[key] == bindparam(f"key_{key}") for key in keys.split()]
    if unset:
        by.append(table.c[unset] == null())
    return update(table).where(*by).values({column: bindparam(column) for column in columns.split()})


def change(
    connection: Connection, table: Table, keys: Mapping[str, Any], values: Mapping[str, Any], unset: str | None = None
) -> None:
    """Set ``values`` in the one row of ``table`` that has the values of ``keys`` in these columns and, where ``unset``
    names one, NULL in that. Raises StoreError where there is none."""
    change_all(connection, table, keys, [values], unset)


def change_all(
    connection: Connection,
    table: Table,
    keys: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    unset: str | None = None,
    by: str = "",
) -> None:
    """Change many rows of ``table`` at once, one for each of ``rows``.

    ``keys`` are the values that all of them have in these columns. ``by`` names further columns, with blanks between,
    that tell them apart: each of ``rows`` holds the values of these by which it is found, and of the others the values
    to set. Where ``unset`` names a column, that is NULL so far. Raises StoreError unless every one is found.
    """
    if not rows:
        return
    columns = " ".join(name for name in rows[0] if name not in by.split())
    statement = _update(table, " ".join((*keys, by)), columns, unset)
    fixed = {f"key_{key}": value for key, value in keys.items()}
    parameters = [
        fixed | {f"key_{name}" if name in by.split() else name: value for name, value in row.items()} for row in rows
    ]
    if connection.execute(statement, parameters).rowcount != len(rows):
        raise StoreError(f"{table.name} has no open row for each of {len(rows)} with {dict(keys)}")


def put(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert metrics. Of several with one primary key the last stands: where a round is tried again, the last
    answer's."""
    if rows:
        connection.execute(insert_or_update(table), rows)


def matches(table: Table, keys: Mapping[str, Any]) -> tuple[ColumnElement[bool], ...]:
    """The conditions of a WHERE: each column of ``keys`` has its value there."""
    return tuple(table.c[key] == value for key, value in keys.items())
