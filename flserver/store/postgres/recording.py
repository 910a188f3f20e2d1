"""How the writer writes a database of PostgreSQL, which several servers share: behind one chain, each its own run."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from flserver import faults
from flserver.clock import Deadline
from flserver.errors import Damaged, StoreError, UsageError
from flserver.events import Event
from flserver.settings.places import Address
from flserver.store import tree
from flserver.store.appending import Head
from flserver.store.chain import GENESIS
from flserver.store.database import Pause
from flserver.store.derive.statements import Rows
from flserver.store.postgres.lock import PostgresLock
from flserver.store.postgres.session import goes_again, is_away, what_is_wrong
from flserver.store.recording import Appends, Recording

BEAT = 1.0
"""Seconds after which a writer that has nothing to write asks for its session."""
PAUSE = 0.2
"""Seconds between two tries of what gives no sign when it can be had."""

HEAD = "SELECT seq, digest FROM flserver.head FOR UPDATE"
NEW_HEAD = "UPDATE flserver.head SET seq = :seq, digest = :digest"
IS_THERE = "SELECT digest FROM events WHERE seq = :seq"

Written = tuple[Head, Sequence[Event]]
T = TypeVar("T")

logger = logging.getLogger(__name__)


class PostgresRecording(Recording):
    """Writes in the session of a ``lock``, which is its own where it is not ``lent``; a database that has gone away is
    waited for, ``patience`` seconds.

    Each transaction locks two rows: that of the run's writer, whose epoch has to be the one that this writer has taken,
    and that of the chain's head, behind which it appends. So a server that has lost its lock commits nothing more, and
    servers take turns.
    """

    def __init__(self, address: Address, patience: float, lock: PostgresLock | None) -> None:
        self._address = address
        self._patience = patience
        self._lent = lock is not None
        self._lock = lock or PostgresLock(address)
        self._pause: Pause = lambda seconds: None
        self._rows: Rows | None = None  # None where it is to be read from the tables
        self._head = Head()
        self._unsure: Written | None = None  # what was about to be committed when the session was lost

    def open(self, pause: Pause) -> Head:
        self._pause = pause
        try:
            if not self._lent:
                self._lock.__enter__()
            self._head = self._patiently(self._begin)
        except (SQLAlchemyError, UsageError) as error:
            raise StoreError(f"{self._address} cannot be opened for writing: {what_is_wrong(error)}") from error
        return self._head

    def _begin(self) -> Head:
        self._lock.begin()
        with self._lock.session.transaction() as connection:
            return self._head_of(connection)

    def commit(self, append: Appends) -> Written:
        written = self._patiently(lambda: self._commit(append))
        self._head, self._unsure = written[0], None
        return written

    def _commit(self, append: Appends) -> Written:
        try:
            with self._lock.session.transaction() as connection:
                self._lock.require_mine(connection)
                if self._unsure is not None and self._is_there(connection, self._unsure[0]):
                    return self._unsure
                self._unsure = None
                head = self._head_of(connection)
                rows = self._rows = self._rows or Rows(connection)
                rows.connection = connection
                written = append(rows, head)
                end = {"seq": written[0].tree.size, "digest": written[0].digest}
                connection.execute(text(NEW_HEAD), end)
                faults.reach("commit")
                self._unsure = written
            faults.reach("committed")
            return written
        except BaseException:
            self._rows = None  # it knows what was rolled back
            raise

    def _head_of(self, connection: Connection) -> Head:
        """Where the chain stands, which stays so for this transaction."""
        seq, digest = connection.execute(text(HEAD)).one()
        if (seq, digest) == (self._head.tree.size, self._head.digest):
            return self._head
        if self._head.tree.size and not self._is_there(connection, self._head):
            raise Damaged(
                f"{self._address} no longer has event {self._head.tree.size}, which this server had committed: it is "
                "as it was before, of a backup or of a replica that lagged behind. Bring back the one that has it, or "
                "begin with --resume, from what is left"
            )
        return Head(digest, tree.frontier_of(connection)) if seq else Head(GENESIS)

    @staticmethod
    def _is_there(connection: Connection, head: Head) -> bool:
        return bool(connection.execute(text(IS_THERE), {"seq": head.tree.size}).scalar() == head.digest)

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """What ``attempt`` gives, as soon as the database is there for it."""
        deadline: Deadline | None = None
        while True:
            try:
                value = attempt()
            except SQLAlchemyError as error:
                away = is_away(error)
                if not away and not goes_again(error):
                    raise
                if deadline is None:
                    deadline = Deadline.after(self._patience)
                    logger.warning(
                        "%s: %s: waiting for up to %.0f s; nothing is answered meanwhile",
                        *(self._address, what_is_wrong(error), self._patience),
                    )
                self._until_there(deadline, error, away=away)
            else:
                if deadline is not None:
                    logger.warning("%s is there again", self._address)
                return value

    def _until_there(self, deadline: Deadline, error: SQLAlchemyError, *, away: bool) -> None:
        """Wait, and have a session again, with its locks. Raises ``error`` where that takes too long."""
        while not deadline.passed:
            self._pause(PAUSE)
            if not away:
                return
            with suppress(SQLAlchemyError):
                self._lock.session.again()
                if self._lock.regain():
                    return
                self._require_not_taken()
        raise error

    def _require_not_taken(self) -> None:
        """While somebody else has the lock: it can be this one's own session, which the database has not missed yet."""
        with self._lock.session.transaction() as connection:
            self._lock.require_mine(connection)

    @property
    def beat(self) -> float | None:
        return BEAT

    def keep(self) -> None:
        """A session that was lost is taken up again, so that a run with an idle server is not taken for one without.
        How long the database may be away is for the next commit to say."""
        try:
            with self._lock.session.transaction() as connection:
                self._lock.require_mine(connection)
        except SQLAlchemyError as error:
            if not is_away(error):
                return
            with suppress(SQLAlchemyError, UsageError):
                self._lock.session.again()
                if not self._lock.regain():
                    self._require_not_taken()

    def leave(self) -> None:
        self.leave_as_it_is()

    def leave_as_it_is(self) -> None:
        if not self._lent:
            self._lock.__exit__(None, None, None)
