"""An SQLite database, as the door has it: one file, and what lies beside it."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Engine, StaticPool, create_engine

from flserver.errors import UsageError
from flserver.files import create, follow
from flserver.store import busy, sqlite
from flserver.store.database import Copied, Database, Lock, Pause
from flserver.store.lock import DatabaseLock, Note, Unheld, holder, read_note, unheld
from flserver.store.recording import Recording
from flserver.store.rollback import roll_back
from flserver.store.sqlite_copies import copy_database, temporary_engine
from flserver.store.sqlite_recording import SQLiteRecording
from flserver.store.wal import check_wal

if TYPE_CHECKING:
    from flserver.store.reader import IdSeeds

ROOM = 2  # times the database: a copy of it, and what is changed, all of it at most

T = TypeVar("T")


class SQLite(Database):
    """The file at ``path``."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path

    def reading_engine(self) -> Engine:
        return sqlite.reading_engine(self.path)

    @contextmanager
    def frozen(self) -> Iterator[Engine]:
        try:
            opened = sqlite.reading_engine(self.path).raw_connection()
            driver = opened.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            opened.detach()
            driver.execute("BEGIN")  # the first answer is of the moment at which all others are
        except sqlite.DATABASE_ERRORS as error:
            raise self.unusable("read", error) from error
        with closing(driver):
            engine = create_engine("sqlite://", creator=lambda: driver, poolclass=StaticPool)
            # The end of an answer is not the end of the transaction.
            engine.dialect.do_rollback = _nothing  # type: ignore[method-assign, assignment]
            yield engine

    def require_there(self) -> None:
        if not self.path.is_file():
            raise UsageError(f"there is no database {self.path}: --db FILE names another")

    def is_ours(self, connection: Connection) -> bool:
        return sqlite.is_ours(connection)

    def damage(self, connection: Connection) -> str | None:
        """Every page is read."""
        found = str(connection.exec_driver_sql("PRAGMA quick_check").scalar())
        return None if found == "ok" else " ".join(found.split())

    def bytes(self) -> float:
        """The file's, and its write-ahead log's."""
        total = 0
        for file in (self.path, self._beside("-wal")):
            try:
                total += file.stat().st_size
            except FileNotFoundError:
                continue  # the log exists only while a server writes
        return float(total)

    def room(self) -> dict[str, Any]:
        folder = self.path.resolve().parent
        writable = all(os.access(place, os.W_OK) for place in (self.path, folder))
        return {"writable": writable, "bytes_free": shutil.disk_usage(folder).free}

    def unusable(self, doing: str, error: BaseException) -> UsageError:
        return sqlite.unusable(self.path, doing, error)

    def what_failed(self, error: BaseException) -> str:
        return sqlite.what_failed(self.path, error)

    def revision(self) -> str | None:
        self._require_file()
        if not self.path.exists() or self.path.stat().st_size == 0:
            return None
        with self.errors():
            return sqlite.revision_of(self.path)

    def require_writable(self) -> None:
        self._require_file()
        # SQLite makes a journal beside the database: the directory must be writable too.
        for place in (self.path, self.path.parent):
            if place.exists() and not os.access(place, os.W_OK):
                raise UsageError(f"{place} cannot be written")

    def _require_file(self) -> None:
        if self.path.is_dir():
            raise UsageError(f"{self.path} is a directory, not a database")
        if not self.path.parent.is_dir():
            raise UsageError(f"{self.path} cannot be made: there is no directory {self.path.parent}")

    @contextmanager
    def errors(self, folder: Path | None = None) -> Iterator[None]:
        try:
            yield
        except sqlite.DATABASE_ERRORS as error:
            if sqlite.is_full(error):
                raise UsageError(self._no_room(folder)) from error
            raise self.unusable("used as a database", error) from error
        except OSError as error:
            raise UsageError(f"{self.path} cannot be used as a database: {error.strerror}") from error

    def _no_room(self, folder: Path | None) -> str:
        """What to say where the database cannot be copied and brought to the newest schema for want of room."""
        size = sum(part.stat().st_size for part in (self.path, self._beside("-wal")) if part.exists())
        place = self.path.parent.resolve() if folder is None else folder.resolve()
        needed, free = (number / 2**20 for number in (ROOM * size, shutil.disk_usage(place).free))
        said = f"{self.path} cannot be upgraded: that takes up to {needed:,.0f} MiB in {place}"
        said = f"{said}, which has {free:,.0f} MiB free"
        if folder is None:
            return f"{said}: for a copy beside it and for what is changed. Make room there"
        return f"{said}: an upgrade is tried there first. Make room, or name another folder in SQLITE_TMPDIR"

    def settle(self) -> None:
        roll_back(self.path)

    def when_free(self, patience: float, pause: Pause, attempt: Callable[[], T]) -> T:
        return busy.when_free(self.path, patience, pause, attempt)

    def wait_until_readable(self, patience: float, pause: Pause) -> None:
        busy.wait_until_readable(self.path, patience, pause)

    def create(self, group: int | None) -> None:
        if not self.path.exists():
            os.close(create(self.path.resolve(), group))  # SQLite would make it for everybody to read

    def copy_aside(self, revision: str) -> Path:
        """WAL included, under a name that nobody has yet."""
        stem = f"{self.path.name}.before-{revision}"
        number = 1
        while True:
            copy = self.path.with_name(stem if number == 1 else f"{stem}-{number}")
            try:
                os.close(create(copy, mode=self.path.stat().st_mode & 0o777))
                break
            except FileExistsError:
                number += 1
        follow(self.path, copy)
        copy_database(self.path, copy)
        return copy

    def copy_into(self, copy: Path) -> Copied:
        copy_database(self.path, copy)
        return Copied()

    def stand_in(self, *, empty: bool) -> Engine:
        return temporary_engine(None if empty else self.path)

    def writing_engine(self, *, create: bool = False, held: Lock | None = None) -> Engine:
        return sqlite.writing_engine(self.path, create=create)

    def check_journal(self) -> None:
        check_wal(self.path)

    def scrub(self, connection: Connection) -> None:
        sqlite.driver_of(connection).execute("PRAGMA secure_delete = ON")

    def keep_head(self, connection: Connection, size: int, digest: str) -> None:
        """It is the last event's."""

    def overwrite(self) -> None:
        """What is in free pages and in the WAL."""
        with self.writing_engine().connect() as connection:
            self.scrub(connection)
            driver = sqlite.driver_of(connection)
            for step in ("PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
                done = driver.execute(step).fetchone()
                if done is not None and done[0]:
                    raise sqlite3.OperationalError(f"{step}: the database is in use")
            driver.execute("PRAGMA journal_mode = DELETE")

    def lock(self, *, stays: bool = True, alone: bool = True) -> AbstractContextManager[Lock]:
        """There is one lock, and whoever has it is alone."""
        return DatabaseLock(self.path, stays=stays)

    def holder(self) -> Note | None:
        return holder(self.path)

    def read_note(self) -> Note | None:
        return read_note(self.path)

    def unheld(self, run_id: str) -> Unheld | None:
        """Whoever has the database has every run in it."""
        return unheld(self.path)

    def recording(self, patience: float, lock: Lock | None) -> Recording:
        """The lock is a file's, which nothing takes away."""
        return SQLiteRecording(self.path, patience)

    def id_seeds(self) -> "IdSeeds":
        from flserver.store.reader import Reader

        return Reader(self.path).id_seeds()

    def _beside(self, end: str) -> Path:
        return self.path.with_name(self.path.name + end)


def _nothing(connection: object) -> None: ...
