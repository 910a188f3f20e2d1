"""A database of PostgreSQL's, as the door has it: several servers can share it, each with runs of its own."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import SQLAlchemyError

from flserver.clock import Deadline
from flserver.errors import UsageError
from flserver.settings.places import Address
from flserver.store import sqlite
from flserver.store.database import Copied, Database, Lock, Pause
from flserver.store.lock import Note, Unheld
from flserver.store.postgres import engines
from flserver.store.postgres.lock import PostgresLock
from flserver.store.postgres.recording import NEW_HEAD, PostgresRecording
from flserver.store.postgres.session import HOLDERS, WHOLE, Advisory, is_away, what_is_wrong
from flserver.store.purge import RESTING
from flserver.store.reader import IdSeeds
from flserver.store.recording import Recording
from flserver.store.sqlite_copies import temporary_engine

PAUSE = 0.5  # seconds between two tries to reach it
IDS = 10**9
"""Ids of each kind that a process can give: each has as many for itself, so that nobody asks for them."""
MAKING = 0x464C7377  # of the lock that whoever makes the schema has, to the end of the transaction

MORE = """
    SELECT CAST(current_user AS TEXT) FROM pg_catalog.pg_class
    WHERE oid = pg_catalog.to_regclass('public.events') AND pg_catalog.pg_has_role(relowner, 'USAGE')"""
"""Whoever owns the tables; a superuser has every role."""

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Postgres(Database):
    """The one at ``address``."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self.address = address

    def reading_engine(self) -> Engine:
        return engines.reading_engine(str(self.address))

    @contextmanager
    def frozen(self) -> Iterator[Engine]:
        try:
            opened = engines.frozen(str(self.address))
            engine = opened.__enter__()
        except (SQLAlchemyError, psycopg.Error) as error:
            raise self.unusable("read", error) from error
        try:
            yield engine
        finally:
            opened.__exit__(None, None, None)

    def require_there(self) -> None:
        """Connecting says."""

    def is_ours(self, connection: Connection) -> bool:
        stands_in = connection.dialect.name == "sqlite"
        return sqlite.is_ours(connection) if stands_in else engines.is_ours(connection)

    def damage(self, connection: Connection) -> str | None:
        """It is for PostgreSQL's own tools (amcheck) to tell."""
        return None

    def bytes(self) -> float:
        """All of the database's."""
        with self._asking() as connection:
            size = "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())"
            return float(connection.execute(text(size)).scalar_one())

    def room(self) -> dict[str, Any]:
        """It is on another machine."""
        return {}

    def more_than_reads(self) -> str | None:
        with suppress(UsageError), self._asking() as connection:  # who asks in earnest is told
            role = connection.execute(text(MORE)).scalar()
            return None if role is None else str(role)
        return None

    def unusable(self, doing: str, error: BaseException) -> UsageError:
        return UsageError(f"{self.address} cannot be {doing}: {what_is_wrong(error)}")

    def what_failed(self, error: BaseException) -> str:
        return f"{self.address}: {what_is_wrong(error)}"

    def revision(self) -> str | None:
        try:
            with self.errors(), engines.writing_engine(str(self.address)).connect() as connection:
                return engines.revision_of(connection)
        except UsageError as error:
            said = str(error)
            raise error if said.startswith(str(self.address)) else UsageError(f"{self.address}: {said}") from error

    def require_writable(self) -> None:
        """Writing says."""

    @contextmanager
    def errors(self, folder: Path | None = None) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, psycopg.Error) as error:
            raise self.unusable("used as a database", error) from error

    def settle(self) -> None:
        """A crash leaves nothing half done."""

    def when_free(self, patience: float, pause: Pause, attempt: Callable[[], T]) -> T:
        """Whoever waits for a lock is woken."""
        return attempt()

    def wait_until_readable(self, patience: float, pause: Pause) -> None:
        deadline, told = Deadline.after(patience), False
        while True:
            try:
                engines.connect(str(self.address)).close()
                return
            except psycopg.Error as error:
                if not is_away(error) or deadline.passed:
                    return  # who reads it says what is wrong
                if not told:
                    logger.warning("%s: trying again for up to %.0f s", self.what_failed(error), patience)
                    told = True
            pause(PAUSE)

    def create(self, group: int | None) -> None:
        """Whoever has the database has made it; its schema is made with the first revision."""

    def copy_aside(self, revision: str) -> None:
        """There is pg_dump."""

    def copy_into(self, copy: Path) -> Copied:
        from flserver.store.postgres.copies import copy_into

        return copy_into(str(self.address), copy)

    def stand_in(self, *, empty: bool) -> Engine:
        """Raises UsageError for an old one, which other servers may be using."""
        if not empty:
            raise UsageError(
                f"{self.address} is of an older version: flserver --db {self.address} db upgrade brings it to this "
                "one's, while no server uses it; make a copy before (pg_dump)"
            )
        return temporary_engine(None)

    def writing_engine(self, *, create: bool = False, held: Lock | None = None) -> Engine:
        engine = engines.writing_engine(str(self.address))

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            if create:  # two servers can come to a database that is empty
                connection.exec_driver_sql(f"SELECT pg_catalog.pg_advisory_xact_lock({MAKING})")

        @event.listens_for(engine, "commit")
        def commit(connection: Connection) -> None:
            if held is not None:  # by another session than this connection's, which can be lost meanwhile
                held.require_held()

        return engine

    def check_journal(self) -> None:
        """PostgreSQL sees to that."""

    def scrub(self, connection: Connection) -> None:
        """A row that is changed stays in its file as it was until that is written anew."""

    def keep_head(self, connection: Connection, size: int, digest: str) -> None:
        connection.execute(text(NEW_HEAD), {"seq": size, "digest": digest})

    def overwrite(self) -> None:
        """The tables are written anew, and their old files are gone. PostgreSQL's own log, and archives and replicas of
        it, are for whoever runs that."""
        with self.writing_engine().connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            for table in ("events", *sorted(RESTING)):
                connection.exec_driver_sql(f"VACUUM (FULL) {table}")

    def lock(self, *, stays: bool = True, alone: bool = True) -> AbstractContextManager[Lock]:
        return PostgresLock(self.address, stays=stays, alone=alone)

    def holder(self) -> Note | None:
        """The first of the servers that use it."""
        with suppress(UsageError), self._asking() as connection:
            for row in connection.execute(text(HOLDERS), WHOLE.halves).mappings():
                since = row["backend_start"].astimezone(UTC)
                return Note(pid=row["pid"], since=f"{since:%Y-%m-%dT%H:%M:%S.%fZ}")
        return None

    def read_note(self) -> Note | None:
        """It loses no commits."""
        return None

    def unheld(self, run_id: str) -> Unheld | None:
        with suppress(UsageError), self._asking() as connection:
            if connection.execute(text(HOLDERS), Advisory.of_run(run_id).halves).first() is not None:
                return None
            there = "SELECT pg_catalog.has_table_privilege('flserver.writers', 'SELECT')"
            if connection.execute(text(there)).scalar():
                known = "SELECT 1 FROM flserver.writers WHERE run_id = :run"
                return "left" if connection.execute(text(known), {"run": run_id}).first() else "copy"
            return "left"
        return None

    def recording(self, patience: float, lock: Lock | None) -> Recording:
        return PostgresRecording(self.address, patience, lock if isinstance(lock, PostgresLock) else None)

    def id_seeds(self) -> IdSeeds:
        """A number that the sequence has given to nobody else, and that no copied record has: process ids and, in that
        process's thousand million, all others follow from it."""
        with self.errors(), self.writing_engine().begin() as connection:
            ask = connection.exec_driver_sql
            highest = "SELECT COALESCE(MAX(process_id), 0) FROM processes"
            given = "SELECT pg_catalog.nextval('flserver.process_ids')"
            number, used = int(ask(given).scalar_one()), int(ask(highest).scalar_one())
            if number <= used:  # the record came from elsewhere
                ask(f"SELECT pg_catalog.pg_advisory_xact_lock({MAKING})")
                raised = "pg_catalog.setval('flserver.process_ids', GREATEST(%s, last_value))"
                ask(f"SELECT {raised} FROM flserver.process_ids", (used,))
                number = int(ask(given).scalar_one())
        first = number * IDS + 1
        return IdSeeds(message_id=first, connection_id=first, update_id=first, process_id=number)

    @contextmanager
    def _asking(self) -> Iterator[Connection]:
        with self.errors(), self.reading_engine().connect() as connection:
            yield connection
