"""Who has what in a database of PostgreSQL: advisory locks of sessions, which end with them, however they end."""

from collections.abc import Sequence
from contextlib import suppress
from threading import Event
from types import TracebackType
from typing import Literal, Self

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from flserver.errors import StoreError, UsageError
from flserver.settings.places import Address
from flserver.store.lock import Note
from flserver.store.postgres.session import WHOLE, Advisory, Session, described, goes_again, is_away, what_is_wrong
from flserver.text import printable

THERE = "SELECT pg_catalog.to_regclass('flserver.writers') IS NOT NULL"
TAKE = """
    INSERT INTO flserver.writers AS w (run_id, epoch) VALUES (:run, 1)
    ON CONFLICT (run_id) DO UPDATE SET epoch = w.epoch + 1 RETURNING epoch"""
BEGIN = "INSERT INTO flserver.writers (run_id, epoch) VALUES (:run, 1) ON CONFLICT DO NOTHING"
UNVERIFIED = "SELECT source FROM flserver.unverified"
MARKS = "SELECT pg_catalog.to_regclass('flserver.unverified') IS NOT NULL"
MINE = "SELECT epoch FROM flserver.writers WHERE run_id = :run FOR UPDATE"


LEFT_AFTER = 3.0
"""Seconds for which nobody has to have had a run before it counts as left over: an idle server asks for its session
every second (``recording.BEAT``), and has its run again then."""

_of = Advisory.of_run


def wait(seconds: float) -> None:
    """Wait for what gives no sign."""
    Event().wait(seconds)


class PostgresLock:
    """Implements ``store.database.Lock``: a session with the database, that shares it with others or has it ``alone``.

    It is the session that the writer writes in, so that one whose lock is gone cannot write. Entering raises UsageError
    where somebody else is in the way.
    """

    def __init__(self, address: Address, *, stays: bool = True, alone: bool = False) -> None:
        self.stays = stays
        self.before: Note | None = None  # the database's own promises are kept elsewhere
        self.run_id: str | None = None
        self._epoch: int | None = None  # None: it has no run, or the database has no table for it yet
        self._address = address
        self._alone = alone
        self._session: Session | None = None

    def __enter__(self) -> Self:
        try:
            self._session = Session(self._address, "alone" if self._alone else "server")
            if not self._session.lock(WHOLE, shared=not self._alone):
                raise UsageError(f"{self._address} is in use: {self._who(WHOLE)}")
            with self._session.transaction() as connection:
                self._require_verified(connection)
        except SQLAlchemyError as error:
            self._end()
            raise UsageError(f"{self._address} cannot be used as a database: {what_is_wrong(error)}") from error
        except BaseException:
            self._end()
            raise
        return self

    def _require_verified(self, connection: Connection) -> None:
        """Raises UsageError where what is here is a copy whose making was cut off."""
        source = connection.execute(text(UNVERIFIED)).scalar() if connection.execute(text(MARKS)).scalar() else None
        if source is not None:
            raise UsageError(
                f"{self._address} holds a copy of {printable(source)} that was cut off before it was verified: nothing "
                "goes on from it. Make the database anew (dropdb, createdb), and give flserver db copy again"
            )

    @property
    def session(self) -> Session:
        """That of the block."""
        assert self._session is not None, "it is entered"
        return self._session

    def require_held(self) -> None:
        if not self._answers():
            raise StoreError(
                f"the session that kept others away from {self._address} is lost, and what was to be written is not: "
                "the database is as it was"
            )

    def take_run(self, run_id: str) -> None:
        """Keep others away from this run. Raises UsageError where somebody has it, who is named."""
        key = _of(run_id)
        try:
            if run_id != self.run_id and not self._has(run_id):
                raise UsageError(f"run {run_id} is served already: {self._who(key)}")
        except SQLAlchemyError as error:
            raise UsageError(f"run {run_id} cannot be had in {self._address}: {what_is_wrong(error)}") from error

    def try_run(self, run_id: str) -> bool:
        """A session that was lost is taken up again, at the next try."""
        try:
            return self._has(run_id)
        except SQLAlchemyError as error:
            if goes_again(error):
                return False
            if not is_away(error):
                raise
            with suppress(SQLAlchemyError):
                self.session.again()
                self.regain()
            return False

    def _has(self, run_id: str) -> bool:
        epoch = self._taken(run_id)
        if epoch is False:
            return False
        self.run_id, self._epoch = run_id, epoch
        self.session.renew(f"run {run_id}")
        return True

    def left_over(self, run_ids: Sequence[str]) -> list[str]:
        """Those of the runs that nobody has had for longer than an idle server needs to have its own again, and that no
        server asks for."""
        free = [run_id for run_id in run_ids if run_id == self.run_id or not self.session.holders(_of(run_id))]
        if set(free) - {self.run_id}:
            wait(LEFT_AFTER)
        return [run_id for run_id in free if run_id == self.run_id or not self.session.others(f"run {run_id}")]

    def takes_over(self, run_id: str) -> bool:
        """Whether nobody works on a run, and nobody begins to before :meth:`give_back`."""
        return run_id == self.run_id or self._taken(run_id) is not False

    def _taken(self, run_id: str) -> "int | Literal[False] | None":
        """The run's new epoch, which whoever had the run before has not: what that one read is not what holds any more.
        None before there is a table for it; False where somebody has the run, or the whole database."""
        with self.session.transaction() as connection:
            if not self.session.try_lock(connection, WHOLE, shared=not self._alone):
                return False
            if not self.session.try_lock(connection, _of(run_id)):
                return False
            if not connection.execute(text(THERE)).scalar():
                return None
            return int(connection.execute(text(TAKE), {"run": run_id}).scalar_one())

    def require_run(self) -> None:
        try:
            if not self._answers():
                self.session.again()
                if not self.regain():
                    raise UsageError(f"another server has taken run {self.run_id}: {self._who_has_it()}")
            self.begin()
        except (SQLAlchemyError, StoreError) as error:
            raise UsageError(f"run {self.run_id} was lost before it began: {what_is_wrong(error)}") from error

    def _answers(self) -> bool:
        try:
            with self.session.transaction() as connection:
                connection.execute(text("SELECT 1"))
        except SQLAlchemyError as error:
            if not is_away(error):
                raise
            return False
        return True

    def _who_has_it(self) -> str:
        return self._who(WHOLE if self.run_id is None else _of(self.run_id))

    def begin(self) -> None:
        """Have the run's epoch where its table came after the lock. Raises StoreError where another server has it."""
        with self.session.transaction() as connection:
            new = self.run_id is not None and self._epoch is None and bool(connection.execute(text(THERE)).scalar())
            if new:
                connection.execute(text(BEGIN), {"run": self.run_id})
        if new:
            self._epoch = 1  # committed now
        with self.session.transaction() as connection:
            self.require_mine(connection)

    def require_mine(self, connection: Connection) -> None:
        """In a transaction, to whose end it stays so. Raises StoreError where somebody else has taken the run over."""
        if self._epoch is None:
            return
        epoch = connection.execute(text(MINE), {"run": self.run_id}).scalar()
        if epoch != self._epoch:
            raise StoreError(
                f"another server has taken over run {self.run_id} (it is at epoch {epoch}, and this one had "
                f"{self._epoch}): what it has not committed is not committed"
            )

    def give_back(self, run_id: str) -> None:
        """Let others have a run that was taken over."""
        if run_id != self.run_id:
            self.session.unlock(_of(run_id))

    def regain(self) -> bool:
        """Whether a session that was taken up again has its locks again; else somebody has them still."""
        if not self.session.lock(WHOLE, shared=not self._alone):
            return False
        return self.run_id is None or self.session.lock(_of(self.run_id))

    def note_head(self, sequence: int, digest: str) -> None:
        """PostgreSQL loses no commit that it has said is durable."""

    def _who(self, key: Advisory) -> str:
        return "; ".join(map(described, self.session.holders(key))) or "by somebody who has just left: try again"

    def _end(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
