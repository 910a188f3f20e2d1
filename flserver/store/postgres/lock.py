"""Who has what in a database of PostgreSQL: advisory locks of sessions, which end with them, however they end."""

from contextlib import suppress
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from flserver.errors import UsageError
from flserver.settings.places import Address
from flserver.store.lock import Note
from flserver.store.postgres.session import WHOLE, Advisory, Session, described, is_away, what_is_wrong


class PostgresLock:
    """Implements ``store.database.Lock``: a session with the database, that shares it with others or has it ``alone``.

    It is the session that the writer writes in, so that one whose lock is gone cannot write. Entering raises UsageError
    where somebody else is in the way.
    """

    def __init__(self, address: Address, *, stays: bool = True, alone: bool = False) -> None:
        self.stays = stays
        self.before: Note | None = None  # the database's own promises are kept elsewhere
        self.run_id: str | None = None
        self._address = address
        self._alone = alone
        self._session: Session | None = None

    def __enter__(self) -> Self:
        try:
            self._session = Session(self._address, "alone" if self._alone else "server")
            if not self._session.lock(WHOLE, shared=not self._alone):
                raise UsageError(f"{self._address} is in use: {self._who(WHOLE)}")
        except SQLAlchemyError as error:
            self._end()
            raise UsageError(f"{self._address} cannot be used as a database: {what_is_wrong(error)}") from error
        except BaseException:
            self._end()
            raise
        return self

    @property
    def session(self) -> Session:
        """That of the block."""
        assert self._session is not None, "it is entered"
        return self._session

    def take_run(self, run_id: str) -> None:
        """Keep others away from this run. Raises UsageError where somebody has it, who is named."""
        key = Advisory.of_run(run_id)
        if run_id != self.run_id and not self._has(run_id):
            raise UsageError(f"run {run_id} is served already: {self._who(key)}")

    def try_run(self, run_id: str) -> bool:
        """A session that was lost is taken up again, at the next try."""
        try:
            return self._has(run_id)
        except SQLAlchemyError as error:
            if not is_away(error):
                raise
            with suppress(SQLAlchemyError):
                self.session.again()
                self.regain()
            return False

    def _has(self, run_id: str) -> bool:
        if not self.session.lock(Advisory.of_run(run_id)):
            return False
        self.run_id = run_id
        self.session.renew(f"run {run_id}")
        return True

    def takes_over(self, run_id: str) -> bool:
        """Whether nobody works on a run, and nobody begins to before :meth:`give_back`."""
        return run_id == self.run_id or self.session.lock(Advisory.of_run(run_id))

    def give_back(self, run_id: str) -> None:
        """Let others have a run that was taken over."""
        if run_id != self.run_id:
            self.session.unlock(Advisory.of_run(run_id))

    def regain(self) -> bool:
        """Whether a session that was taken up again has its locks again; else somebody has them still."""
        if not self.session.lock(WHOLE, shared=not self._alone):
            return False
        return self.run_id is None or self.session.lock(Advisory.of_run(self.run_id))

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
