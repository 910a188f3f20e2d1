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
from flserver.store.tables import SafeText

MOST_ROWS = 64
"""Rows of one statement; each has at most some 20 parameters, of SQLite's 32,766."""

Row = Mapping[str, Any]
Conversion = tuple[int, Callable[[Any, Any], Any]]


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
    order, ``convert`` what makes of one at that place what its column holds, and ``texts`` the same for text that the
    driver refuses."""

    what: Writing
    text: Callable[[int], str]
    names: tuple[str, ...]
    convert: tuple[Conversion, ...]
    texts: tuple[Conversion, ...]

    def run(self, connection: Connection, rows: Sequence[Row]) -> int:
        """Run it for ``rows``, which have its parameters by name; what is not there is NULL. Returns how many rows of
        the table it inserted or changed. Raises sqlite3.Error, or sqlalchemy's DBAPIError."""
        if connection.dialect.name == "postgresql":
            from flserver.store.postgres.statements import write

            every = (*self.convert, *self.texts)
            return write(connection, self.what, [self._values([row], every) for row in rows]) if rows else 0
        driver, done = driver_of(connection), 0
        for some in _portions(rows):
            text = self.text(len(some))
            try:
                done += driver.execute(text, self._values(some, self.convert)).rowcount
            except UnicodeEncodeError:  # before anything is written: rare, so that not every text is searched for it
                done += driver.execute(text, self._values(some, (*self.convert, *self.texts))).rowcount
        return done

    def _values(self, rows: Sequence[Row], converting: Sequence[Conversion]) -> list[Any]:
        """The parameters of ``rows``, one row's after another's."""
        values: list[Any] = []
        for row in rows:
            values += map(row.get, self.names)
        for place, convert in converting:
            for at in range(place, len(values), len(self.names)):
                if values[at] is not None:
                    values[at] = convert(values[at], None)
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
    kinds = [(at, column.type) for at, column in enumerate(columns) if isinstance(column.type, TypeDecorator)]
    texts, convert = (
        tuple((at, kind.process_bind_param) for at, kind in kinds if isinstance(kind, SafeText) == is_text)
        for is_text in (True, False)
    )
    return Prepared(what, cache(lambda rows: around(", ".join([one] * rows))), names, convert, texts)


def _portions(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """``rows`` in order, in portions of a power of two of them, ``MOST_ROWS`` at most."""
    begin, size = 0, MOST_ROWS
    while left := len(rows) - begin:
        while size > left:
            size //= 2
        yield rows[begin : begin + size]
        begin += size
