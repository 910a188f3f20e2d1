"""A session with PostgreSQL that holds locks and writes: how a dead one is noticed, and how it is taken up again."""

import hashlib
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from flserver.errors import UsageError
from flserver.settings.places import Address
from flserver.store.postgres.engines import SEARCH_PATH, VANISHED, reaching
from flserver.store.postgres.words import said, sqlstate

MOST_OF_A_NAME = 63  # bytes that PostgreSQL keeps of an application_name
UNHEARD = 20.0  # seconds that a transaction may take, before its database is taken for one that hangs
FROZEN = 5000
"""Milliseconds that a session may do nothing in a transaction: a server that hangs holds no lock that others need."""
LOCK_WAIT = 2000  # milliseconds that a statement waits for another's lock, before the whole is tried again
SETTINGS = {
    "search_path": SEARCH_PATH,
    **{f"tcp_{name.removeprefix('tcp_')}": str(value) for name, value in VANISHED.items()},
    "idle_in_transaction_session_timeout": str(FROZEN),
    "lock_timeout": str(LOCK_WAIT),
}

ASKED = """
    SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('synchronous_commit') = 'off',
        pg_catalog.current_setting('fsync') = 'off'"""

AGAIN = frozenset({"40001", "40P01", "55P03"})
"""A transaction that failed because of others', and can be tried again: serialization, deadlock, a lock."""
AWAY = frozenset({"25P03", "53300", "57P01", "57P02", "57P03", "57P05"})
"""The database cannot be used now: it stops, starts, has ended this session, or has too many of them."""


@dataclass(frozen=True)
class Advisory:
    """The key of an advisory lock, 64 bits, signed."""

    key: int

    @classmethod
    def of_run(cls, run_id: str) -> "Advisory":
        """The lock of whoever works on a run."""
        return cls(int.from_bytes(hashlib.sha256(f"flserver run {run_id}".encode()).digest()[:8], signed=True))

    @property
    def halves(self) -> dict[str, int]:
        """As pg_locks has it."""
        return {"high": self.key >> 32 & 0xFFFFFFFF, "low": self.key & 0xFFFFFFFF}


WHOLE = Advisory(0x464C7376)
"""The lock of the whole database: servers share it, and whoever changes the schema has it alone."""

HOLDERS = """
    SELECT pid, application_name AS name, COALESCE(pg_catalog.host(client_addr), 'a local socket') AS address,
        backend_start
    FROM pg_catalog.pg_locks JOIN pg_catalog.pg_stat_activity USING (pid)
    WHERE locktype = 'advisory'
        AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
        AND classid = :high AND objid = :low AND objsubid = 1 AND granted ORDER BY backend_start"""


OTHERS = """
    SELECT EXISTS (
        SELECT 1 FROM pg_catalog.pg_stat_activity
        WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid()
            AND pg_catalog.starts_with(application_name, CAST(:begins AS TEXT))
    )"""


class Session:
    """One session: its ``connection`` has one transaction at a time, of whichever thread."""

    def __init__(self, address: Address, what: str) -> None:
        """Raises psycopg.Error, and UsageError where a connection pooler stands between."""
        self.address = address
        self._what = what
        self._one = threading.Lock()  # guards the connection
        self.connection = self._opened()

    def _opened(self) -> Connection:
        with _sqlalchemys("connecting"), ExitStack() as heard:  # SQLAlchemy asks something too
            engine = create_engine(
                "postgresql+psycopg://",
                creator=lambda: self._connect(heard),
                poolclass=NullPool,
                use_native_hstore=False,
            )
            return engine.connect()

    def _connect(self, heard: ExitStack) -> "psycopg.Connection[Any]":
        address = str(self.address)
        driver = psycopg.connect(address, application_name=_name(self._what), **reaching(address))
        try:
            heard.enter_context(_heard(driver))
            driver.execute("; ".join(f"SET {name} = {value}" for name, value in SETTINGS.items()).encode())
            found = driver.execute(ASKED.encode()).fetchone()
            assert found is not None
            if found[0] != driver.info.backend_pid:
                raise UsageError(
                    f"{self.address} leads to a connection pooler, such as PgBouncer, and what holds the lock of a run "
                    "is a session with the database itself: name that"
                )
            if found[2]:
                raise UsageError(
                    f"{self.address} runs with fsync = off: a power cut loses what it has called durable. Turn it on"
                )
            if found[1]:
                driver.execute("SET synchronous_commit = on")  # what is committed has to be on the disk
            driver.commit()
        except BaseException:
            driver.close()
            raise
        return driver

    def renew(self, what: str) -> None:
        """From now on PostgreSQL's activity shows it as doing that."""
        self._what = what
        with self.transaction() as connection:
            connection.execute(
                text("SELECT pg_catalog.set_config('application_name', :name, false)"), {"name": _name(what)}
            )

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction, committed at the block's end. Errors of the driver's are SQLAlchemy's."""
        with self._one, _sqlalchemys("a transaction"):
            if (
                self.connection.closed or self.connection.invalidated
            ):  # SQLAlchemy would make another one, without our locks
                raise psycopg.OperationalError("the session with the database is lost")
            driver = self.connection.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)
            with _heard(driver), self.connection.begin():
                yield self.connection

    def lock(self, key: Advisory, *, shared: bool = False) -> bool:
        """Whether it has the lock now."""
        with self.transaction() as connection:
            return self.try_lock(connection, key, shared=shared)

    @staticmethod
    def try_lock(connection: Connection, key: Advisory, *, shared: bool = False) -> bool:
        """The same in a transaction that runs; the lock outlives it."""
        function = "pg_try_advisory_lock_shared" if shared else "pg_try_advisory_lock"
        return bool(connection.execute(text(f"SELECT pg_catalog.{function}(:key)"), {"key": key.key}).scalar())

    def unlock(self, key: Advisory) -> None:
        """Give it back."""
        with self.transaction() as connection:
            connection.execute(text("SELECT pg_catalog.pg_advisory_unlock(:key)"), {"key": key.key})

    def holders(self, key: Advisory) -> list[Mapping[str, Any]]:
        """Who has the lock: ``pid``, ``name``, ``address`` and ``backend_start`` of each session."""
        with self.transaction() as connection:
            return [dict(row) for row in connection.execute(text(HOLDERS), key.halves).mappings()]

    def others(self, what: str) -> bool:
        """Whether another session is shown as doing ``what``; it need not have a lock."""
        begins = _cut_name(f"flserver {what} on ")
        with self.transaction() as connection:
            return bool(connection.execute(text(OTHERS), {"begins": begins}).scalar())

    def again(self) -> None:
        """A new session in the place of one that is lost, without its locks. Raises as the first one did."""
        with self._one:
            self._drop()
            self.connection = self._opened()

    def close(self) -> None:
        """Its locks are free. May be called again."""
        with self._one:
            self._drop()

    def _drop(self) -> None:
        with suppress(SQLAlchemyError, psycopg.Error):
            self.connection.invalidate()
            self.connection.close()


@contextmanager
def _heard(driver: "psycopg.Connection[Any]") -> Iterator[None]:
    """Within the block, a database that takes what is sent and says nothing is cut off after a while: it is away. The
    network's time-outs do not see it, for its kernel answers."""
    with socket.socket(fileno=os.dup(driver.fileno())) as end:  # its own, so that no other can have its number
        timer = threading.Timer(UNHEARD, _cut, [end])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


def _cut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def _name(what: str) -> str:
    """How PostgreSQL's activity shows a session that does ``what``."""
    return _cut_name(f"flserver {what} on {socket.gethostname()}, process {os.getpid()}")


def _cut_name(name: str) -> str:
    return name.encode()[:MOST_OF_A_NAME].decode(errors="ignore")


def described(holder: Mapping[str, Any]) -> str:
    """A session, for people."""
    begun = holder["backend_start"]  # not everybody may see it of another user's
    since = "" if begun is None else f", since {begun:%Y-%m-%d %H:%M:%S %Z}"
    return f"{holder['name']} (from {holder['address']}, PostgreSQL's process {holder['pid']}{since})"


@contextmanager
def _sqlalchemys(doing: str) -> Iterator[None]:
    """Within the block, an error of the driver's own is SQLAlchemy's."""
    try:
        yield
    except psycopg.Error as error:
        raise DBAPIError(doing, None, error) from error


def is_away(error: BaseException) -> bool:
    """Whether the database could not be reached, or went away: it may come back."""
    inner = getattr(error, "orig", None) or error
    if not isinstance(inner, psycopg.Error):
        return False
    state = sqlstate(error)
    if state is None:
        return isinstance(inner, psycopg.OperationalError | psycopg.InterfaceError)
    return state in AWAY or state.startswith("08")


def goes_again(error: BaseException) -> bool:
    """Whether a transaction failed because of others', and can be tried again."""
    return sqlstate(error) in AGAIN


def what_is_wrong(error: BaseException) -> str:
    """What an error says, with its SQLSTATE."""
    state = sqlstate(error)
    return said(error) + (f" (SQLSTATE {state})" if state else "")
