"""How the writer writes an SQLite database: in WAL mode, and in one file again at the end."""

import logging
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, select

from flserver import faults
from flserver.events import Event
from flserver.store import tables, tree
from flserver.store.appending import Head
from flserver.store.busy import when_free
from flserver.store.database import Pause
from flserver.store.derive.statements import Rows
from flserver.store.recording import Appends, Recording
from flserver.store.sqlite import DATABASE_ERRORS, store_errors, what_failed, writing_engine
from flserver.store.wal import fold_left_over, leave_as_it_is, leave_one_file, set_wal, share_companions

logger = logging.getLogger(__name__)


class SQLiteRecording(Recording):
    """Writes the database at ``path``; another program's lock on it is waited for, ``patience`` seconds."""

    def __init__(self, path: Path, patience: float) -> None:
        self._path = path
        self._patience = patience
        self._pause: Pause = lambda seconds: None
        self._connection: Connection | None = None
        self._rows: Rows | None = None  # None where it is to be read from the tables
        self._head = Head()

    def open(self, pause: Pause) -> Head:
        self._pause = pause
        with store_errors(f"{self._path} cannot be opened for writing"):
            connection = writing_engine(self._path).connect()
            try:
                when_free(self._path, self._patience, pause, lambda: self._open(connection))
            except BaseException:
                leave_as_it_is(connection, self._path)  # closing would fold the WAL once more
                raise
        self._connection = connection
        return self._head

    def _open(self, connection: Connection) -> None:
        """Find where the chain stands."""
        set_wal(connection, self._path)
        fold_left_over(connection, self._path)
        last = select(tables.events.c.digest).order_by(tables.events.c.seq.desc()).limit(1)
        with connection.begin():
            digest = connection.execute(last).scalar()
            if digest is not None:
                self._head = Head(digest, tree.frontier_of(connection))
        share_companions(self._path)

    def commit(self, append: Appends) -> tuple[Head, Sequence[Event]]:
        written = when_free(self._path, self._patience, self._pause, lambda: self._commit(append))
        self._head = written[0]
        return written

    def _commit(self, append: Appends) -> tuple[Head, Sequence[Event]]:
        connection = self._opened
        try:
            with connection.begin():
                rows = self._rows = self._rows or Rows(connection)
                written = append(rows, self._head)
                faults.reach("commit")
            faults.reach("committed")
            return written
        except BaseException:
            self._rows = None  # it knows what was rolled back
            raise

    def leave(self) -> None:
        """Leave one file. Where that fails all is durable, in two: the next server folds them, or says so."""
        try:
            leave_one_file(self._opened, self._path, self._pause)
            self._opened.close()
        except DATABASE_ERRORS as error:
            leave_as_it_is(self._opened, self._path)
            said = what_failed(self._path, error)
            logger.warning("the end of the record stays in %s-wal, which belongs to it: %s", self._path, said)

    def leave_as_it_is(self) -> None:
        leave_as_it_is(self._opened, self._path)

    @property
    def _opened(self) -> Connection:
        assert self._connection is not None, "it is open"
        return self._connection
