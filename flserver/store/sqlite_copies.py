"""Copies of an SQLite file: one that stays, and one that is gone when nobody has it open."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, Engine, StaticPool, create_engine, event

from flserver.store.sqlite import open_for_reading


def temporary_folder() -> Path:
    """Where SQLite keeps what is temporary: the first folder in which it can, in the order in which it looks."""
    named = (os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"))
    places = [Path(place) for place in (*named, "/var/tmp", "/usr/tmp", "/tmp") if place]
    return next((place for place in places if place.is_dir() and os.access(place, os.W_OK | os.X_OK)), Path())


def temporary_engine(path: Path | None) -> Engine:
    """An engine for a database of its own, at first a copy of the one at ``path`` (None: empty). Dispose of it.

    SQLite keeps what is small of it in memory, and the rest in a file without a name.

    Raises as :func:`open_for_reading` does.
    """
    copy = nameless()
    if path is not None:
        try:
            with closing(open_for_reading(path)) as source:
                source.backup(copy)
        except BaseException:
            copy.close()
            raise
    return engine_of(copy)


def engine_of(driver: sqlite3.Connection) -> Engine:
    """An engine with this one connection. Dispose of it."""
    engine = create_engine("sqlite://", creator=lambda: driver, poolclass=StaticPool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def nameless() -> sqlite3.Connection:
    """A database without a name, which is gone when it is closed."""
    return sqlite3.connect("", isolation_level=None, check_same_thread=False)


def copy_database(path: Path, copy: Path, begun: Callable[[], None] = lambda: None) -> None:
    """Copy the database at ``path``, its WAL included, into the one file ``copy``: a state of one moment, also while a
    server writes it. ``begun`` is called at that moment. Raises as :func:`open_for_reading` does."""
    with closing(open_for_reading(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.execute("BEGIN")
        source.execute("SELECT 1 FROM sqlite_master").fetchone()  # from here on it sees one state
        begun()
        source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE")  # one file, that anybody can open who may read it
