"""All that is SQLite's alone.

How the file is opened, by the one writer and by readers that cannot write; its journal, and how a clean stop leaves it.
Its copies are in ``sqlite_copies.py``.
"""

import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from flserver.clock import Deadline
from flserver.errors import StoreError, UsageError
from flserver.files import follow

BUSY_TIMEOUT = 5.0
"""Seconds that a connection that reads waits for another one's lock."""
LOCK_NOTICE = 1.0
"""Seconds that the one that writes waits for it before that is said (``store/busy.py``)."""

STATEMENTS = 256
"""Statements that the one that writes keeps compiled: some 25 of its own, for each power of two of rows."""

CLOSE_PATIENCE = 1.0
"""Seconds that a clean stop waits for readers, to leave a database in one file."""
CLOSE_PAUSE = 0.02
"""Seconds between two tries of that."""
APPLICATION_ID = 0x464C7376  # as the first migration writes it

DATABASE_ERRORS = (SQLAlchemyError, sqlite3.Error)

logger = logging.getLogger(__name__)

_READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_TRANSACTION}
# PRAGMAs that only tell something: about a table or index, or, without an argument, about the file.
_PRAGMAS_ABOUT = {
    "foreign_key_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "table_info",
    "table_list",
    "table_xinfo",
}
_PRAGMAS_BARE = {
    *("application_id", "encoding", "freelist_count", "integrity_check", "journal_mode", "page_count", "page_size"),
    *("quick_check", "read_uncommitted", "schema_version", "user_version"),
}


def writing_engine(path: Path, *, create: bool = False) -> Engine:
    """An engine for writing the database at ``path``, whose every transaction is ``BEGIN IMMEDIATE``.

    With ``create`` the file is made where there is none; else connecting then raises sqlalchemy's OperationalError. A
    deferred transaction that turns into a write fails at once where another one has written, whatever the timeout.
    """
    uri = f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            uri,
            uri=True,
            timeout=LOCK_NOTICE,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=STATEMENTS,
        )
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA trusted_schema = OFF")
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def reading_engine(path: Path) -> Engine:
    """An engine for reading the database at ``path``. Its connections can do nothing else, whatever SQL they are given,
    and each of their transactions sees one state of the database.

    ``PRAGMA query_only`` would not do: ATTACH and VACUUM INTO write files all the same.
    """

    def connect() -> sqlite3.Connection:
        connection = open_for_reading(path)
        connection.execute("PRAGMA trusted_schema = OFF")
        # The first use of a table-valued function declares it, which looks like a write to an authorizer.
        connection.execute("SELECT 1 FROM json_each('[]'), json_tree('[]')")
        connection.set_authorizer(_authorize)
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def open_for_reading(path: Path) -> sqlite3.Connection:
    """A connection that reads the file at ``path``, and no more, also on a medium where nothing can be written.

    Raises sqlite3.Error; or UsageError, which says what to copy where, for what can be read only after something was
    written beside it.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        return _opened(uri)
    except sqlite3.OperationalError as error:
        real = path.resolve()
        wants_to_write = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
        if not wants_to_write or os.access(real.parent, os.W_OK) or not os.access(real, os.R_OK):
            if error.sqlite_errorcode == sqlite3.SQLITE_READONLY_ROLLBACK:
                raise UsageError(f"{path}: a crash left a change half done; a start or db upgrade undoes it") from error
            raise
        wal, index, journal = (real.with_name(real.name + end) for end in ("-wal", "-shm", "-journal"))
        with suppress(sqlite3.OperationalError):
            if wal.exists() and not index.exists():
                # A server that was killed left its WAL, and whoever reads that needs an index beside it. No index means
                # that nobody has the file open: without file locks and alone, SQLite keeps the index in memory.
                return _opened(f"{uri}&vfs=unix-none", "PRAGMA locking_mode = EXCLUSIVE")
            if not wal.exists() and not journal.exists():
                return _opened(f"{uri}&immutable=1")  # whole, but marked as one that has a WAL: as .backup leaves it
        files = ", ".join(file.name for file in (real, wal, journal) if file.exists())
        raise UsageError(
            f"{path} cannot be read where nothing can be written ({error}): copy {files} together into a folder of "
            "your own, and name the copy with --db"
        ) from error


def _opened(uri: str, *pragmas: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)
    try:
        for statement in (*pragmas, "PRAGMA schema_version"):  # the first look at the file
            connection.execute(statement)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _authorize(action: int, first: str | None, second: str | None, database: str | None, trigger: str | None) -> int:
    if action in _READS:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION and second != "load_extension":
        return sqlite3.SQLITE_OK
    pragma = (first or "").lower()
    if action == sqlite3.SQLITE_PRAGMA and (pragma in _PRAGMAS_ABOUT or (pragma in _PRAGMAS_BARE and second is None)):
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


@contextmanager
def store_errors(doing: str) -> Iterator[None]:
    """Within the block, turn an error of the database into a StoreError, which says what it came of: ``doing``."""
    try:
        yield
    except DATABASE_ERRORS as error:
        raise StoreError(f"{doing}: {cause(error)}") from error


def cause(error: BaseException) -> str:
    """What an error says in SQLite's own words, without the statement and its parameters."""
    return str(getattr(error, "orig", None) or error)


def is_full(error: BaseException) -> bool:
    """Whether there was no room for what SQLite wanted to write."""
    return getattr(getattr(error, "orig", None) or error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def set_wal(connection: Connection, path: Path) -> None:
    """Switch the file to a write-ahead log. Not in a transaction: the PRAGMA refuses to run in one.

    Raises StoreError where the file system cannot have one.
    """
    mode = driver_of(connection).execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError(f"{path} cannot use SQLite's WAL (journal_mode stays {mode}): is it on a network disk?")


def share_companions(path: Path) -> None:
    """Let who may read the database at ``path``, which is open, read what SQLite has made beside it: it gives those
    files the database's mode, but only root's its group."""
    real = path.resolve()
    for end in ("-wal", "-shm"):
        follow(real, real.with_name(real.name + end))


def check_wal(path: Path) -> None:
    """Raises StoreError where the database at ``path`` could not have a write-ahead log. What is made beside it to find
    that out is gone afterwards."""
    with store_errors(f"{path} cannot be written"), TemporaryDirectory(prefix=".flserver-", dir=path.parent) as folder:
        beside = Path(folder) / path.name
        with writing_engine(beside, create=True).connect() as connection:
            set_wal(connection, path)


def leave_one_file(connection: Connection, path: Path, pause: Callable[[float], None]) -> None:
    """Fold the WAL into the file at ``path``, where the one connection that writes is about to be closed.

    Readers of a WAL need to write beside it; after this they need not. All is durable by now, so a reader that does not
    let go within ``CLOSE_PATIENCE`` costs the tidy end, not the run: that is logged. ``pause`` waits some seconds;
    another process's reader gives no sign that could be waited for.
    """
    driver, patience = driver_of(connection), Deadline.after(CLOSE_PATIENCE)
    driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    while True:
        try:
            driver.execute("PRAGMA journal_mode = DELETE")
            return
        except sqlite3.OperationalError as error:  # locked: SQLite does not wait for readers here
            if patience.passed:
                logger.warning("%s is left in WAL mode, somebody reads it: %s", path, error)
                return
        pause(CLOSE_PAUSE)


def driver_of(connection: Connection) -> sqlite3.Connection:
    """The driver's own connection, for what SQLAlchemy does not do, or not as fast. What it raises is sqlite3.Error."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def is_ours(connection: Connection) -> bool:
    """Whether the file that ``connection`` reads is a database of flserver."""
    return bool(connection.exec_driver_sql("PRAGMA application_id").scalar() == APPLICATION_ID)


def revision_of(path: Path) -> str | None:
    """The revision of the schema that the file at ``path``, which exists, states; None where it has no tables.

    Writes nothing. Raises UsageError for another program's database, and as :func:`open_for_reading` does.
    """
    with closing(open_for_reading(path)) as connection:
        ours = connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        empty = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0
        if empty and not ours:
            return None
        if not ours:
            raise UsageError(f"{path} is a database of another program")
        stated = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        if stated is None:
            raise UsageError(f"{path} does not say which schema it has: alembic_version has no row")
        return str(stated[0])
