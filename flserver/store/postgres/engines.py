"""How a database of PostgreSQL is opened, by those who write and by readers that cannot.

An address is what libpq takes: a URL, or ``service=NAME``. What else it needs, a password say, libpq finds in the
environment, the service file and ``~/.pgpass``.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, NullPool, StaticPool, create_engine

from flserver.errors import NotInstalled, UsageError
from flserver.store.payloads import canonical_json

if TYPE_CHECKING:
    import psycopg

SEARCH_PATH = "public, flserver, pg_catalog"
"""The record's tables and views first; then the functions that its SQL takes for SQLite's."""
LONGEST = 600
"""Seconds that a reader's statement may take, and that a reader may hold its state of the database doing nothing: the
server keeps what has been changed since."""
COLLATIONS = ("C", "POSIX", "C.UTF-8", "C.utf8", "ucs_basic")
"""Those that sort text as its bytes, as SQLite does."""

VANISHED: Mapping[str, int] = {
    **{"keepalives_idle": 1, "keepalives_interval": 1, "keepalives_count": 3},
    "tcp_user_timeout": 4000,
}
"""Where the network answers nothing for four seconds, the other end is gone: so a vanished host's lock is free within
five."""
CONNECT_SECONDS = 5

_SORTS = """
    SELECT pg_encoding_to_char(encoding), datcollate, COALESCE(to_jsonb(d) ->> 'datlocprovider', 'c')
    FROM pg_database AS d WHERE datname = current_database()"""
"""Before PostgreSQL 15 libc alone sorts in a whole database."""

_DURABLE = (
    "SELECT pg_catalog.set_config('synchronous_commit', 'on', FALSE)"
    " WHERE pg_catalog.current_setting('synchronous_commit') = 'off'"
)
"""What is told as written is written; any other value is its owner's, for replicas."""
_SESSION = f"{_DURABLE}; SET search_path = {SEARCH_PATH}; SET standard_conforming_strings = on; SET timezone = 'UTC'"
_READING = (
    f"{_SESSION}; SET default_transaction_read_only = on; SET statement_timeout = '{LONGEST}s'; "
    f"SET idle_in_transaction_session_timeout = '{LONGEST}s'"
)


def driver() -> Any:
    """The driver. Raises UsageError, with what to install, where it is missing."""
    try:
        import psycopg
    except ImportError as error:
        raise NotInstalled("a record on PostgreSQL needs psycopg", "postgres") from error
    return psycopg


def connect(address: str) -> "psycopg.Connection[Any]":
    """A connection that writes. Raises psycopg.Error, and UsageError where the driver is missing."""
    connection = driver().connect(address, autocommit=True, application_name="flserver", **reaching(address))
    return _prepared(connection, _SESSION)


def reaching(address: str) -> dict[str, Any]:
    """How long ``address``, which may have its own word in that, is tried, and when it is given up."""
    timeout = {} if "connect_timeout=" in address else {"connect_timeout": CONNECT_SECONDS}
    return {"keepalives": 1, **VANISHED, **timeout}


def connect_for_reading(address: str) -> "psycopg.Connection[Any]":
    """A connection that only reads, each of whose transactions sees one state; values have SQLite's types. Raises as
    :func:`connect` does."""
    driver()
    from psycopg import ClientCursor, IsolationLevel

    connection = _prepared(connect(address), _READING)
    connection.read_only = True
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    # Values are in the statement: what each is compared with says what it is, as it does in SQLite.
    connection.cursor_factory = ClientCursor
    connection.server_cursor_factory = _streaming()
    _take_sqlites_types(connection)
    return connection


def _prepared(connection: "psycopg.Connection[Any]", settings: str) -> "psycopg.Connection[Any]":
    try:
        connection.autocommit = True
        connection.execute(settings.encode())
        connection.autocommit = False
    except BaseException:
        connection.close()
        raise
    return connection


def _streaming() -> Any:
    """The class of cursors whose rows are read a page at a time."""
    from psycopg import ServerCursor
    from psycopg.client_cursor import ClientCursorMixin

    class Streaming(ClientCursorMixin[Any, Any], ServerCursor[Any]):
        """Declared with the values in its statement."""

    return Streaming


def _take_sqlites_types(connection: "psycopg.Connection[Any]") -> None:
    """A truth value is 0 or 1, a NUMERIC an integer or a float, and a value of a JSON document what it is there."""
    from psycopg.adapt import Loader
    from psycopg.types.json import set_json_loads

    class Truth(Loader):
        def load(self, data: Any) -> int:
            return int(bytes(data) == b"t")

    class Number(Loader):
        def load(self, data: Any) -> float:
            return int(data) if bytes(data).lstrip(b"-").isdigit() else float(data)

    connection.adapters.register_loader("bool", Truth)
    connection.adapters.register_loader("numeric", Number)
    set_json_loads(_value, connection)


def _value(text: str | bytes) -> Any:
    value = json.loads(text)
    if isinstance(value, bool):
        return int(value)
    return canonical_json(value) if isinstance(value, dict | list) else value


def writing_engine(address: str) -> Engine:
    """An engine for writing the database at ``address``."""
    return _engine(lambda: connect(address))


def reading_engine(address: str) -> Engine:
    """An engine for reading it. Its transactions are read only, and each sees one state of the database; that a
    statement cannot undo this, :mod:`asking` sees to. What else its role may do is for whoever made the role."""
    return _engine(lambda: connect_for_reading(address))


def _engine(connect: Callable[[], Any], pool: Any = NullPool) -> Engine:
    driver()
    return create_engine("postgresql+psycopg://", creator=connect, poolclass=pool, use_native_hstore=False)


@contextmanager
def frozen(address: str) -> Iterator[Engine]:
    """Within the block, an engine whose answers are all of one moment. It is to be short: the server keeps meanwhile
    what others change. Raises as :func:`connect` does."""
    with closing(connect_for_reading(address)) as connection:
        engine = _engine(lambda: connection, StaticPool)
        # The end of an answer is not the end of the transaction.
        engine.dialect.do_rollback = _nothing  # type: ignore[method-assign, assignment]
        connection.execute(b"SELECT 1")  # from here on it sees one state
        yield engine


def _nothing(connection: object) -> None: ...


def is_ours(connection: Connection) -> bool:
    """Whether what ``connection`` is to is a database of flserver."""
    ours = "SELECT to_regclass('public.v1_events') IS NOT NULL AND to_regnamespace('flserver') IS NOT NULL"
    return bool(connection.exec_driver_sql(ours).scalar())


def revision_of(connection: Connection) -> str | None:
    """The revision of the schema that the database states; None where it has nothing in it.

    Raises UsageError for another program's database, and for one that does not sort text as the record does.
    """
    ask = connection.exec_driver_sql
    if is_ours(connection):
        stated = ask("SELECT version_num FROM flserver.revision").scalar()
        if stated is None:
            raise UsageError("the database does not say which schema it has: alembic_version has no row")
        return str(stated)
    others = ask(
        "SELECT COUNT(*) FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace WHERE relkind IN ('r', 'v', 'm')"
        " AND n.nspname <> 'information_schema' AND left(n.nspname, 3) <> 'pg_'"
    ).scalar()
    if others:
        raise UsageError("the database is one of another program: flserver wants one of its own")
    encoding, collation, provider = ask(_SORTS).one()
    if encoding != "UTF8" or collation not in COLLATIONS or provider != "c":
        by, libc = ("", "") if provider == "c" else (", by another library than libc", " --locale-provider=libc")
        raise UsageError(
            f"the database has the encoding {encoding} and sorts text as in {collation}{by}, and a record's order is "
            f"that of UTF-8's bytes: make it by createdb --template=template0 --encoding=UTF8 --locale=C{libc} NAME"
        )
    return None
