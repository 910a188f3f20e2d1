"""A copy of a database to hold against its own events, and empty tables beside it to derive them into.

The copy is made at once, so that nothing is held of a database that a server writes, and is gone afterwards. An old one
is upgraded first, as a server would.
"""

import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine

from flserver.errors import UsageError
from flserver.settings.places import Address, Place
from flserver.store.database import Database, at
from flserver.store.incomplete import MARK
from flserver.store.schema import check, migrate
from flserver.store.sqlite import driver_of, open_for_reading, writing_engine
from flserver.store.sqlite_copies import engine_of, temporary_engine, temporary_folder

ROOM = 2  # times the database: its copy, and what is derived of it, all of it at most
INTEGRITY_PROBLEMS = 10
CACHE = 64 * 1024  # KiB of each of the two databases in memory, at most

WORDS = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\w+|[^\s\w]""")
QUOTED_NAME = re.compile(r'"[A-Za-z_]\w*"')
LOOSENED = (
    ("updates", "update_digest TEXT"),
    ("connections", "peer_host TEXT"),
    ("connections", "peer_port INTEGER"),
    ("clients", "info TEXT"),
    ("summaries", "prefix TEXT"),
)
"""By table, the columns, as in :func:`_plain`, that may be NULL since a migration: a way down may leave it so."""

Schema = dict[tuple[str, str], tuple[str, str | None]]
"""Of each table, index, view and trigger by kind and name: its table's name and its text."""


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """What the database is held against, and where.

    ``connection`` has the derived tables, empty and without indexes, and, attached as ``record``, the database's
    copy; ``copy`` reads it too.
    ``revision`` is the schema that the database has; ``problems`` is what is wrong with the schema and with the file.
    ``comparable`` are the tables of the copy that are what the schema says. ``incomplete`` is True where a downgrade
    took columns off that were not filled again since.
    """

    connection: Connection
    copy: Engine
    revision: str
    problems: tuple[str, ...]
    comparable: frozenset[str]
    incomplete: bool


@contextmanager
def scratch(place: Place) -> Iterator[Scratch]:
    """A scratch database for the one at ``place``, of which nothing is held when the block begins.

    Raises UsageError where there is no such database, it cannot be read, or there is no room for the copy.
    """
    state, database = check(place), at(place)
    if state.current is None:
        raise UsageError(f"there is no database {place}")
    if isinstance(place, Address) and not state.at_head:
        raise UsageError(f"{place} is of an older version: flserver --db {place} db upgrade brings it to this one's")
    folder = temporary_folder()
    _require_room(database, folder)
    descriptor, name = tempfile.mkstemp(prefix="flserver-verify-", suffix=".sqlite", dir=folder)
    os.close(descriptor)
    copy = Path(name)
    reading: Engine | None = None
    expected = temporary_engine(None)
    derived = expected if state.at_head else temporary_engine(None)
    try:
        with database.errors(folder), _own_errors(database, folder):
            copied = database.copy_into(copy)
            with closing(sqlite3.connect(copy)) as target:
                marked = target.execute("PRAGMA user_version").fetchone()[0] == MARK
                incomplete = marked and not state.at_head  # at head it means nothing, whoever set it
                target.execute("PRAGMA user_version = 0")
            migrate(expected, revision=state.current)
            if not state.at_head:
                migrate(derived)
            with expected.connect() as connection:
                meant = _schema(driver_of(connection))
            problems, comparable = _look_at(copy, meant, loosened=incomplete)
            problems, comparable = (*copied.problems, *problems), comparable - copied.missing
            if not state.at_head:
                if problems:
                    comparable = frozenset()  # what is not as it was meant is not upgraded
                else:
                    migrate(writing_engine(copy))
            with derived.connect() as connection:
                _attach(driver_of(connection), copy)
                if not state.at_head and comparable:
                    comparable = frozenset(_names(_schema(driver_of(connection))))
            reading = engine_of(open_for_reading(copy))
        copy.unlink()  # it stays as long as it is open: whoever ends this process leaves nothing of the record
        with derived.connect() as connection:
            yield Scratch(
                connection=connection,
                copy=reading,
                revision=state.current,
                problems=problems,
                comparable=comparable,
                incomplete=incomplete,
            )
    finally:
        copy.unlink(missing_ok=True)
        for engine in {expected, derived, reading}:
            if engine is not None:
                engine.dispose()


@contextmanager
def _own_errors(database: Database, folder: Path) -> Iterator[None]:
    """What SQLite cannot do with the copy of a database that is not its own."""
    try:
        yield
    except sqlite3.Error as error:
        if isinstance(database.place, Path):
            raise
        raise UsageError(f"{database} cannot be verified in {folder}: {error}") from error


def _require_room(database: Database, folder: Path) -> None:
    size, free = database.bytes(), shutil.disk_usage(folder).free
    if free < ROOM * size:
        raise UsageError(
            f"{database} is verified in a copy: that takes up to {ROOM * size / 2**20:,.0f} MiB in {folder.resolve()}, "
            f"which has {free / 2**20:,.0f} MiB free. Make room, or name another folder in SQLITE_TMPDIR"
        )


def _look_at(copy: Path, meant: Schema, *, loosened: bool) -> tuple[tuple[str, ...], frozenset[str]]:
    """What is wrong with the file and the schema of the copy, and which tables of it are as they were ``meant``.

    Where they may be ``loosened``, columns of which something is NULL by now may be without NOT NULL: a way down leaves
    them so.
    """
    with closing(sqlite3.connect(copy)) as driver:
        driver.execute("PRAGMA trusted_schema = OFF")
        try:
            found = _schema(driver)
            whole = [text for (text,) in driver.execute(f"PRAGMA integrity_check({INTEGRITY_PROBLEMS})")]
        except sqlite3.DatabaseError as error:
            return (f"the file: {error}",), frozenset()
        problems = [f"the file: {text}" for text in whole if text != "ok"]
        if loosened:
            meant = _followed(meant, found)
        for kind, name in sorted(meant.keys() | found.keys()):
            before, now = meant.get((kind, name)), found.get((kind, name))
            if before != now:
                what = "was added" if before is None else "is missing" if now is None else "was changed"
                problems.append(f"the {kind} {name} {what}: it is not what the migrations make")
        same = frozenset(name for name in _names(meant) if meant["table", name] == found.get(("table", name)))
        if "alembic_version" in same:
            rows = driver.execute("SELECT COUNT(*) FROM alembic_version").fetchone()[0]
            if rows != 1:
                problems.append(f"alembic_version has {rows} rows, and should have one")
    return tuple(problems), same


def _schema(driver: sqlite3.Connection) -> Schema:
    rows = driver.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT IN ('sqlite_stat1', 'sqlite_stat4')"
    )
    return {(kind, name): (table, text and _plain(text)) for kind, name, table, text in rows}


def _plain(text: str) -> str:
    """A statement's words and signs. What SQLite itself changes in it when a column comes or goes, blanks and quotes of
    simple names, makes no difference; everything else does."""
    return " ".join(word[1:-1] if QUOTED_NAME.fullmatch(word) else word for word in WORDS.findall(text))


def _followed(meant: Schema, found: Schema) -> Schema:
    """The schema that was meant, in which those columns may be NULL that may be so in the one found."""
    followed = dict(meant)
    for table, column in LOOSENED:
        if ("table", table) in meant and ("table", table) in found:
            owner, text = followed["table", table]
            if text and f"{column} NOT NULL" not in (found["table", table][1] or ""):
                followed["table", table] = owner, text.replace(f"{column} NOT NULL", column)
    return followed


def _names(schema: Schema) -> list[str]:
    return [name for kind, name in schema if kind == "table"]


def _attach(driver: sqlite3.Connection, copy: Path) -> None:
    """Make the scratch database ready to be written quickly, and the copy readable beside it."""
    for (name,) in driver.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchall():
        if name != "rounds_committed_once":
            driver.execute(f"DROP INDEX {name}")
    driver.execute("ATTACH ? AS record", (str(copy),))
    for setting in (
        *("trusted_schema = OFF", "foreign_keys = OFF", "main.journal_mode = MEMORY", "main.synchronous = OFF"),
        *(f"main.cache_size = -{CACHE}", f"record.cache_size = -{CACHE}"),
    ):
        with suppress(sqlite3.OperationalError):
            driver.execute(f"PRAGMA {setting}")
    driver.execute("SELECT COUNT(*) FROM record.alembic_version")  # the file is open from here on
