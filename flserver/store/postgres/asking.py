"""Somebody's SQL, asked of PostgreSQL as SQLite is asked: with parameters by name, and one statement that only reads.

It becomes the query of a cursor: that is one SELECT, in a transaction that is read only and has begun, which it can
therefore not be told to write.
"""

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, CursorResult
from sqlalchemy.exc import SQLAlchemyError

from flserver.errors import UsageError
from flserver.store.postgres.words import READ_ONLY, said, sqlstate

_PARTS = re.compile(
    r"""--[^\n]*|/\*.*?\*/|\b[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|(\$\w*\$).*?\1|::|:([A-Za-z_]\w*)""",
    re.DOTALL,
)

VIEWS = """
    SELECT table_name FROM information_schema.views WHERE table_schema = 'public' AND left(table_name, 3) = 'v1_'
    ORDER BY table_name"""
COLUMNS = """
    SELECT column_name, CASE data_type WHEN 'bigint' THEN 'INTEGER' WHEN 'double precision' THEN 'REAL' ELSE 'TEXT' END
    FROM information_schema.columns WHERE table_schema = 'public' AND table_name = :view ORDER BY ordinal_position"""


def bound(sql: str, parameters: Mapping[str, Any]) -> str:
    """``sql`` with the values of its ``:name`` in their places, each a literal without a type, so that what it is
    compared with says what it is. ``parameters`` need not be all used. Raises UsageError where one is missing."""

    def put(part: re.Match[str]) -> str:
        name = part[2]
        if name is None:
            return part[0]
        if name not in parameters:
            raise UsageError(f"You did not supply a value for binding parameter :{name}.")
        return literal(parameters[name])

    return _PARTS.sub(put, sql)


def literal(value: Any) -> str:
    """A value as PostgreSQL's text has it. Raises UsageError for text with U+0000 in it."""
    if value is None:
        return "NULL"
    text = (
        str(int(value)) if isinstance(value, bool) else f"\\x{value.hex()}" if isinstance(value, bytes) else str(value)
    )
    if "\0" in text:
        raise UsageError("there is a null character in a value, which PostgreSQL's text cannot hold")
    return "'" + text.replace("'", "''") + "'"


def ask(connection: Connection, sql: str, parameters: Mapping[str, Any], page: int) -> CursorResult[Any]:
    """The answer to ``sql``, which is read ``page`` rows at a time, in the transaction that ``connection`` is in.

    Raises UsageError, with PostgreSQL's words.
    """
    text = bound(sql, parameters)
    if "\0" in text:
        raise UsageError("the SQL has a null character in it")
    if not text.strip(" \t\r\n;"):
        raise UsageError("there is no SQL")
    options = {"no_parameters": True, "stream_results": True, "max_row_buffer": page}
    return connection.exec_driver_sql(text, execution_options=options)


def complaint(error: SQLAlchemyError | ValueError) -> str | None:
    """What to tell who asked; None where it is no error of PostgreSQL's."""
    if sqlstate(error) is None:
        return None
    only = "; a query can only read, and no more than its role may see" if sqlstate(error) in READ_ONLY else ""
    return said(error) + only
