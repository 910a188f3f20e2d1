"""A record's rows copied from one database into another, of whichever kind, where there are none yet.

Every row stays what it is, down to the types of its values: the chain, its tree and its heads hold as they did.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, Table, text

from flserver.errors import UsageError
from flserver.store import tables as t
from flserver.store.database import Database, Lock
from flserver.store.prepared import Writing
from flserver.store.sqlite import driver_of

PAGE = 1000  # rows in memory at once

RECORD: tuple[Table, ...] = (t.events, *t.DERIVED, t.tree_nodes)
"""Every table of the record, parents before children."""


def copy_rows(source: Connection, target: Connection, tables: Iterable[Table] = RECORD) -> None:
    """Copy the rows of ``tables``, in the transactions that both connections are in.

    Raises sqlite3.Error, or sqlalchemy's SQLAlchemyError.
    """
    for table in tables:
        for page in _pages(source, table):
            _write(target, table, page)
    if target.dialect.name == "postgresql":
        target.execute(text(_HEAD))


_MARK = "INSERT INTO flserver.unverified (source) VALUES (:source)"
_UNMARK = "DELETE FROM flserver.unverified"
_HEAD = """
    UPDATE flserver.head SET seq = last.seq, digest = last.digest
    FROM (SELECT seq, digest FROM events ORDER BY seq DESC LIMIT 1) AS last"""
"""The chain ends for whoever appends to it where it ends in the table."""


def copy_record(source: Database, target: Database, lock: Lock) -> None:
    """Copy the record of ``source`` as it is at one moment, in one transaction. Both have the newest schema, and
    ``lock`` is the target's. Where that is PostgreSQL's, nobody goes on from the copy before it is :func:`verified`.

    Raises UsageError where ``target`` has a record already, or either cannot be used, StoreError where the lock is
    lost.
    """
    with source.errors(), target.errors(), source.frozen() as there, there.connect() as reading:
        with target.writing_engine(held=lock).begin() as writing:
            if writing.execute(text("SELECT 1 FROM events LIMIT 1")).first() is not None:
                raise UsageError(f"{target} has a record already: a copy goes where there is none")
            if writing.dialect.name == "postgresql":
                writing.execute(text(_MARK), {"source": str(source)})
            copy_rows(reading, writing)


def verified(database: Database, lock: Lock) -> None:
    """From now on a server may go on from the copy in a database of PostgreSQL's. Raises UsageError or StoreError."""
    with database.errors(), database.writing_engine(held=lock).begin() as writing:
        writing.execute(text(_UNMARK))


def remove_record(database: Database, lock: Lock) -> None:
    """Leave a database of PostgreSQL's as it was before :func:`copy_record`. Raises UsageError or StoreError."""
    with database.errors(), database.writing_engine(held=lock).begin() as writing:
        for table in reversed(RECORD):
            writing.execute(text(f"DELETE FROM {table.name}"))
        writing.execute(text("UPDATE flserver.head SET seq = 0, digest = NULL"))
        writing.execute(text(_UNMARK))


def _pages(source: Connection, table: Table) -> Iterator[list[list[Any]]]:
    keys = ", ".join(table.primary_key.columns.keys())
    query = f"SELECT {_columns(table)} FROM {table.name} ORDER BY {keys}"
    with source.exec_driver_sql(query, execution_options={"stream_results": True, "max_row_buffer": PAGE}) as rows:
        for page in rows.partitions(PAGE):
            yield [list(row) for row in page]


def _write(target: Connection, table: Table, rows: list[list[Any]]) -> None:
    if target.dialect.name == "postgresql":
        from flserver.store.postgres.statements import write

        write(target, Writing(table, "insert", tuple(table.c.keys())), rows)
    else:
        values = ", ".join("?" * len(table.c))
        driver_of(target).executemany(f"INSERT INTO {table.name} ({_columns(table)}) VALUES ({values})", rows)


def _columns(table: Table) -> str:
    return ", ".join(f'"{column.name}"' for column in table.c)  # user is a word of PostgreSQL's
