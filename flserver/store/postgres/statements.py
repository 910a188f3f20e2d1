"""How many rows get into a table of PostgreSQL's: new ones by COPY, others by statements that do not wait for each."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import psycopg
from sqlalchemy import Connection, Integer
from sqlalchemy.exc import DBAPIError

from flserver.store.prepared import Writing


def write(connection: Connection, writing: Writing, rows: Sequence[list[Any]]) -> int:
    """Write ``rows``, each with its values in the order of its names. Returns how many rows of the table were inserted
    or changed. Raises sqlalchemy's DBAPIError."""
    driver, said = connection.connection.driver_connection, statement(writing)
    assert isinstance(driver, psycopg.Connection)
    for place in _whole(writing):
        for row in rows:
            if (value := row[place]) is not None:
                row[place] = int(value)  # a truth value is one too
    try:
        with driver.cursor() as cursor:
            if writing.kind != "insert":
                cursor.executemany(said, rows)
                return cursor.rowcount
            with cursor.copy(said) as copy:
                for row in rows:
                    copy.write_row(row)
            return cursor.rowcount
    except psycopg.Error as error:
        raise DBAPIError(said.decode(), None, error) from error


@cache
def statement(writing: Writing) -> bytes:
    """What is said to PostgreSQL, with a place for each value."""
    table, keys = writing.table, [f'"{key.name}"' for key in writing.table.primary_key]
    columns = [f'"{column}"' for column in writing.columns]  # user is a word of SQL's
    listed, values = ", ".join(columns), ", ".join(["%s"] * len(columns))
    if writing.kind == "insert":
        said = f"COPY {table.name} ({listed}) FROM STDIN"
    elif writing.kind == "put":
        changing = ", ".join(f"{column} = EXCLUDED.{column}" for column in columns if column not in keys)
        said = f"INSERT INTO {table.name} ({listed}) VALUES ({values})"
        said += f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changing}"
    else:
        by = [*(f"{key} = %s" for key in keys), *(f'"{column}" IS NULL' for column in writing.unset)]
        to_set = ", ".join(f"{column} = %s" for column in columns)
        said = f"UPDATE {table.name} SET {to_set} WHERE {' AND '.join(by)}"
    return said.encode()


@cache
def _whole(writing: Writing) -> tuple[int, ...]:
    """The places of a row's values that are of columns of integers."""
    names = [*writing.columns, *(writing.table.primary_key.columns.keys() if writing.kind == "change" else ())]
    return tuple(at for at, name in enumerate(names) if isinstance(writing.table.c[name].type, Integer))
