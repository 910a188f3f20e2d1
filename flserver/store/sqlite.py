"""All that is SQLite's alone.

How the file is opened, by the one writer and by readers that cannot write, and what its errors say. Its write-ahead log
and its copies have files of their own (``wal.py``, ``sqlite_copies.py``).
"""

import codecs
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from flserver.errors import Damaged, StoreError, UsageError

BUSY_TIMEOUT = 5.0
"""Seconds that a connection that reads waits for another one's lock."""
LOCK_NOTICE = 1.0
"""Seconds that the one that writes waits for it before that is said (``store/busy.py``)."""

STATEMENTS = 256
"""Statements that the one that writes keeps compiled: some 25 of its own, for each power of two of rows."""

APPLICATION_ID = 0x464C7376  # as the first migration writes it

DATABASE_ERRORS = (SQLAlchemyError, sqlite3.Error)

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

    engine = create_engine("sqlite://", creator=lambda: reading_connection(path), poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def reading_connection(path: Path) -> sqlite3.Connection:
    """A connection as the engine for reading has them. Raises as :func:`open_for_reading`."""
    connection = open_for_reading(path)
    connection.execute("PRAGMA trusted_schema = OFF")
    # The first use of a table-valued function declares it, which looks like a write to an authorizer.
    connection.execute("SELECT 1 FROM json_each('[]'), json_tree('[]')")
    connection.set_authorizer(_authorize)
    return connection


def as_text(data: bytes) -> str:
    """What SQLite gives as text, as text: with an escape for each byte that is no UTF-8, and for half a character that
    one which JSON has. What stands there is not told from the escape written out."""
    return data.decode("utf-8", _ESCAPED)


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    half = error.object[error.start : error.start + 3]
    try:
        return half.decode("utf-8", "surrogatepass").encode("ascii", "backslashreplace").decode(), error.start + 3
    except UnicodeDecodeError:
        return f"\\x{half[0]:02x}", error.start + 1


_ESCAPED = "flserver.escaped"
codecs.register_error(_ESCAPED, _escape)


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


def what_failed(path: Path, error: BaseException) -> str:
    """What to tell of an error of the database at ``path``: SQLite's words, its name for it, how much room there is."""
    inner = getattr(error, "orig", None) or error
    name = getattr(inner, "sqlite_errorname", None)
    try:
        free = f"{shutil.disk_usage(path.resolve().parent).free / 2**20:,.1f} MiB free at {path.parent}"
    except OSError as unknown:
        free = f"{path.parent}: {unknown.strerror}"
    return f"{path}: {cause(error)} ({f'{name}; ' if name else ''}{free})"


def unusable(path: Path, doing: str, error: BaseException) -> UsageError:
    """What to raise where the database at ``path`` cannot be used because of ``error``; ``doing`` says for what."""
    said = f"{path} cannot be {doing}: {cause(error)}"
    inner = getattr(error, "orig", None) or error
    if getattr(inner, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_CORRUPT:
        return UsageError(said)
    return Damaged(
        f"{said}. It is damaged: put a copy of it back, or begin a new run with the newest file in its folder of "
        "checkpoints (--initial-weights FILE.safetensors); flserver db check says more"
    )


def is_full(error: BaseException) -> bool:
    """Whether there was no room for what SQLite wanted to write."""
    return getattr(getattr(error, "orig", None) or error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def driver_of(connection: Connection) -> sqlite3.Connection:
    """The driver's own connection, for what SQLAlchemy does not do, or not as fast. What it raises is sqlite3.Error."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


@contextmanager
def all_text(connection: Connection) -> Iterator[None]:
    """Within the block, text that is not UTF-8, which SQLite keeps as it keeps any other, is read ``as_text``.
    PostgreSQL has no such text."""
    if connection.dialect.name != "sqlite":
        yield
        return
    driver = driver_of(connection)
    before, driver.text_factory = driver.text_factory, as_text
    try:
        yield
    finally:
        driver.text_factory = before


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
