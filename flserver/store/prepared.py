"""Statements that write many rows at once: SQLite's text for them, made once in a process.

The driver gives the interpreter's lock away whenever SQLite works, and gets it back only when the thread that has it
meanwhile waits for something, or after the switch interval: with a statement for each row, one busy thread holds the
record up by that time for each row. So as many rows as possible go into one statement. Their number is a power of two,
so that there are few texts, and SQLite has each compiled already. On PostgreSQL ``postgres/statements.py`` does it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from sqlalchemy import Column, Connection, Table
from sqlalchemy.types import TypeDecorator

from flserver.store.sqlite import driver_of

MOST_ROWS = 64
"""Rows of one statement; each has at most some 20 parameters, of SQLite's 32,766."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Writing:
    """What is done to rows of ``table``: ``columns`` are inserted, put (changed where the primary key is there),
    or changed in those whose primary key is given, and that have NULL in all of ``unset``."""

    table: Table
    kind: Literal["insert", "put", "change"]
    columns: tuple[str, ...]
    unset: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Prepared:
    """A statement for any number of rows. ``text`` gives it for so many; ``names`` are a row's parameters in their
    order, and ``convert`` what makes of one at that place what its column holds."""

    what: Writing
    text: Callable[[int], str]
    names: tuple[str, ...]
    convert: tuple[tuple[int, Callable[[Any, Any], Any]], ...]

    def run(self, connection: Connection, rows: Sequence[Row]) -> int:
        """Run it for ``rows``, which have its parameters by name; what is not there is NULL. Returns how many rows of
        the table it inserted or changed. Raises sqlite3.Error, or sqlalchemy's DBAPIError."""
        if connection.dialect.name == "postgresql":
            from flserver.store.postgres.statements import write

            return write(connection, self.what, [*map(self._values, rows)]) if rows else 0
        driver, done = driver_of(connection), 0
        for some in _portions(rows):
            values: list[Any] = []
            for row in some:
                values += self._values(row)
            done += driver.execute(self.text(len(some)), values).rowcount
        return done

    def _values(self, row: Row) -> list[Any]:
        values = list(map(row.get, self.names))
        for place, convert in self.convert:
            if (value := values[place]) is not None:
                values[place] = convert(value, None)
        return values


@cache
def inserting(table: Table, *, or_update: bool = False) -> Prepared:
    """``INSERT`` into ``table``; with ``or_update`` it changes the row of the same primary key where there is one."""
    columns = tuple(table.c.keys())
    keys = ", ".join(table.primary_key.columns.keys())
    changing = ", ".join(f"{column.name} = excluded.{column.name}" for column in table.c if not column.primary_key)
    end = f" ON CONFLICT ({keys}) DO UPDATE SET {changing}" if or_update else ""
    begin = f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES "
    what = Writing(table, "put" if or_update else "insert", columns)
    return _prepared(what, list(table.c), columns, lambda values: f"{begin}{values}{end}")


@cache
def changing(table: Table, columns: tuple[str, ...], unset: tuple[str, ...] = ()) -> Prepared:
    """``UPDATE`` of ``columns`` in the rows of ``table`` that have given primary keys, and NULL in all of ``unset``.
    The key's parameters come last, and are called as :func:`key_parameters` says."""
    keys = tuple(table.primary_key.columns.keys())
    to_set = ", ".join(f"{column} = given.column{at}" for at, column in enumerate(columns, 1))
    by = [f"{table.name}.{key} = given.column{at}" for at, key in enumerate(keys, len(columns) + 1)]
    by += [f"{table.name}.{column} IS NULL" for column in unset]
    begin, end = f"UPDATE {table.name} SET {to_set} FROM (VALUES ", f") AS given WHERE {' AND '.join(by)}"
    of = [table.c[name] for name in (*columns, *keys)]
    return _prepared(
        Writing(table, "change", columns, unset),
        of,
        (*columns, *key_parameters(table)),
        lambda values: f"{begin}{values}{end}",
    )


@cache
def key_parameters(table: Table) -> tuple[str, ...]:
    """What the parameters for the primary key of ``table`` are called: a column may be set too."""
    return tuple(f"key_{column.name}" for column in table.primary_key)


def _prepared(
    what: Writing, columns: Sequence[Column[Any]], names: tuple[str, ...], around: Callable[[str], str]
) -> Prepared:
    one = f"({', '.join('?' * len(names))})"
    types = [column.type for column in columns]
    convert = [(at, kind.process_bind_param) for at, kind in enumerate(types) if isinstance(kind, TypeDecorator)]
    return Prepared(what, cache(lambda rows: around(", ".join([one] * rows))), names, tuple(convert))


def _portions(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """``rows`` in order, in portions of a power of two of them, ``MOST_ROWS`` at most."""
    begin, size = 0, MOST_ROWS
    while left := len(rows) - begin:
        while size > left:
            size //= 2
        yield rows[begin : begin + size]
        begin += size
