"""A record of PostgreSQL's as an SQLite database: what it is held against its own events in.

What is wrong with the schema does not come along, and is told. A view is held to what the tables say: it has to show
the same rows as the migrations' own view of the same name shows of the copy.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, text

from flserver.store import tables as t
from flserver.store.database import Copied
from flserver.store.postgres.engines import frozen
from flserver.store.postgres.made import unlike_meant
from flserver.store.schema import migrate, migrations_directory
from flserver.store.sqlite import driver_of, writing_engine
from flserver.store.tables import JsonText, SafeText
from flserver.store.transfer import PAGE, RECORD, copy_rows

CHANGED = "was changed: it is not what the migrations make"
OURS = ("alembic_version",)

_COLUMNS = """
    SELECT attname AS name, format_type(atttypid, atttypmod) AS type, attnotnull AS filled,
        COALESCE(attnum = ANY (
            (SELECT indkey FROM pg_index WHERE indrelid = attrelid AND indisprimary)::SMALLINT[]), FALSE) AS key
    FROM pg_attribute WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"""
_THERE = """
    SELECT relname AS name, CASE relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'view' ELSE 'table' END AS kind
    FROM pg_class WHERE relnamespace = 'public'::REGNAMESPACE AND relkind IN ('r', 'v', 'm', 'p', 'f')
    ORDER BY relname"""
_ADDED = """
    SELECT 'trigger' AS kind, tgname AS name FROM pg_trigger JOIN pg_class AS c ON c.oid = tgrelid
    WHERE NOT tgisinternal AND c.relnamespace IN ('public'::REGNAMESPACE, 'flserver'::REGNAMESPACE)
    UNION ALL SELECT 'rule', rulename FROM pg_rewrite JOIN pg_class AS c ON c.oid = ev_class
    WHERE rulename <> '_RETURN' AND c.relnamespace IN ('public'::REGNAMESPACE, 'flserver'::REGNAMESPACE)
    ORDER BY 1, 2"""
_ENDS = "SELECT COALESCE(h.digest = e.digest AND h.seq = e.seq, h.seq = 0 AND e.seq IS NULL) FROM flserver.head AS h"
_ENDS += " LEFT JOIN (SELECT seq, digest FROM events ORDER BY seq DESC LIMIT 1) AS e ON TRUE"


def copy_into(address: str, copy: Path) -> Copied:
    """Make the file ``copy``, which is empty, an SQLite database of what the record at ``address`` is now; its schema
    is the newest one. Raises sqlite3.Error, psycopg.Error or sqlalchemy's SQLAlchemyError."""
    engine = writing_engine(copy)
    migrate(engine)
    more = unlike_meant(address, (migrations_directory() / "postgres.sql").read_text(encoding="utf-8"))
    with frozen(address) as there, there.connect() as source, engine.connect() as target:
        driver_of(target).execute("PRAGMA foreign_keys = OFF")  # a table that is not copied has children
        copied = _copied(source, target)
        return replace(copied, problems=(*copied.problems, *more))


def _copied(source: Connection, target: Connection) -> Copied:
    with target.begin():
        unlike = {table.name for table in RECORD if not _is_meant(source, table)}
        copy_rows(source, target, [table for table in RECORD if table.name not in unlike])
        problems = [f"the table {name} {CHANGED}" for name in sorted(unlike)]
        problems += _others(source, target)
        if t.events.name not in unlike:
            problems += _views(source, target)
            if not source.execute(text(_ENDS)).scalar():
                problems.append("flserver.head, behind which servers append, is not where the chain of events ends")
    return Copied(problems=tuple(problems), missing=frozenset(unlike))


def _is_meant(source: Connection, table: Table) -> bool:
    found = source.execute(text(_COLUMNS), {"table": f"public.{table.name}"}).all()
    meant = [(c.name, _type(c.type), int(not c.nullable), int(c.primary_key)) for c in table.c]
    return [tuple(row) for row in found] == meant


def _type(kind: Any) -> str:
    if isinstance(kind, SafeText | JsonText):
        return "text"
    return "double precision" if isinstance(kind, t.FiniteReal) else "bigint"


def _others(source: Connection, target: Connection) -> Iterator[str]:
    """What there is that the migrations do not make, and what of theirs is missing."""
    meant = target.execute(text("SELECT name, type FROM sqlite_master WHERE type IN ('table', 'view')"))
    known = {(row.name, row.type) for row in meant}
    there = {(row.name, row.kind) for row in source.execute(text(_THERE))}
    for name, kind in sorted(there - known):
        yield f"the {kind} {name} was added: it is not what the migrations make"
    for name, kind in sorted(known - there):
        if kind == "view" or name in OURS:
            yield f"the {kind} {name} is missing: it is not what the migrations make"
    for row in source.execute(text(_ADDED)):
        yield f"the {row.kind} {row.name} was added: it is not what the migrations make"


def _views(source: Connection, target: Connection) -> Iterator[str]:
    views = target.execute(text("SELECT name FROM sqlite_master WHERE type = 'view' ORDER BY name")).scalars().all()
    there = {row.name for row in source.execute(text(_THERE))}
    for view in views:
        if view in there and _shown(source, view) != _shown(target, view):
            yield f"the view {view} was changed: it does not show what the tables have"


def _shown(connection: Connection, view: str) -> tuple[list[str], int, int]:
    """A view's columns, how many rows it has, and a sum of their digests, which no order changes."""
    count = total = 0
    options = {"stream_results": True, "max_row_buffer": PAGE}
    with connection.exec_driver_sql(f"SELECT * FROM {view}", execution_options=options) as rows:
        columns = list(rows.keys())
        for page in rows.partitions(PAGE):
            count += len(page)
            for row in page:
                digest = hashlib.sha256(repr(tuple(row)).encode("utf-8", "surrogatepass")).digest()
                total += int.from_bytes(digest)
    return columns, count, total % (1 << 256)
