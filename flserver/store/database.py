"""The door: what a record's database is to everybody, whichever program keeps it.

A place (``settings.places``) says where it is; :func:`at` gives what can be asked of it there. What is SQLite's alone
takes the path of its file, which only an SQLite has.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from flserver.errors import UsageError
from flserver.settings.places import Address, Place, place_of

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from flserver.store.lock import Note, Unheld
    from flserver.store.reader import IdSeeds
    from flserver.store.recording import Recording

T = TypeVar("T")
Pause = Callable[[float], object]
"""Waits some seconds for what gives no sign when it comes."""


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What a copy to verify lacks: the ``problems`` of the schema that it cannot have, and the tables whose rows are
    ``missing`` in it."""

    problems: tuple[str, ...] = ()
    missing: frozenset[str] = frozenset()


class Lock(Protocol):
    """Keeps others away from a database while its block runs. ``before`` is what whoever had it before has noted; with
    ``stays`` False, the traces of the lock are gone after the block."""

    stays: bool
    before: "Note | None"

    def note_head(self, sequence: int, digest: str) -> None:
        """Note that the event ``sequence`` with that ``digest`` is durable."""

    def require_held(self) -> None:
        """Raises StoreError where it keeps nobody away any more."""

    def take_run(self, run_id: str) -> None:
        """Keep others away from this run too. Raises UsageError where somebody has it."""

    def try_run(self, run_id: str) -> bool:
        """Whether it keeps others away from this run now; else somebody has it, or the database is away."""

    def require_run(self) -> None:
        """Nothing has been written to this run since it was taken, and nobody else has it. Raises UsageError."""

    def left_over(self, run_ids: Sequence[str]) -> list[str]:
        """Those of the runs whose servers are gone for good, as far as that can be told. It may wait for some to come
        back."""

    def takes_over(self, run_id: str) -> bool:
        """Whether nobody works on a run, which is this lock's then, or until :meth:`give_back`."""

    def give_back(self, run_id: str) -> None:
        """Let others have a run that was taken over."""


class Database(ABC):
    """The database at ``place``. ``str`` of it is what was typed, and holds no secret."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def __str__(self) -> str:
        return str(self.place)

    # --- reading ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def reading_engine(self) -> "Engine":
        """An engine whose connections can do nothing but read, whatever SQL they are given, and each of whose
        transactions sees one state of the database."""

    @abstractmethod
    def frozen(self) -> "AbstractContextManager[Engine]":
        """The same, with every answer of one moment, within the block, which is to be short. Raises UsageError."""

    @abstractmethod
    def require_there(self) -> None:
        """Raises UsageError where there is no database, as far as that shows without connecting to it."""

    @abstractmethod
    def is_ours(self, connection: "Connection") -> bool:
        """Whether what ``connection`` reads is a database of flserver."""

    @abstractmethod
    def damage(self, connection: "Connection") -> str | None:
        """What is wrong with its form, the first thing of it; None where it is sound, or cannot be looked at."""

    @abstractmethod
    def bytes(self) -> float:
        """Its size; 0 where there is none."""

    @abstractmethod
    def room(self) -> dict[str, Any]:
        """Whether it could be written here, and how much room it has, where that can be told."""

    def more_than_reads(self) -> str | None:
        """The role that asks here, where that may do more than read; None where it may not, or there are no roles."""
        return None

    # --- errors -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def unusable(self, doing: str, error: BaseException) -> UsageError:
        """What to raise where the database cannot be used because of ``error``; ``doing`` says for what."""

    @abstractmethod
    def what_failed(self, error: BaseException) -> str:
        """What to tell of an error of the database."""

    # --- schema -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def revision(self) -> str | None:
        """The revision of the schema that it states; None where it has none. Raises UsageError where it is not ours."""

    @abstractmethod
    def require_writable(self) -> None:
        """Raises UsageError where it cannot be written, as far as that shows without writing."""

    @abstractmethod
    def errors(self, folder: Path | None = None) -> AbstractContextManager[None]:
        """What fails in the block is for the operator to mend: raises UsageError. A disk that is full is that of
        ``folder``, None for the database's."""

    @abstractmethod
    def settle(self) -> None:
        """Undo what a crash left half done."""

    @abstractmethod
    def when_free(self, patience: float, pause: Pause, attempt: Callable[[], T]) -> T:
        """What ``attempt`` gives as soon as no other program's lock keeps it from that, ``patience`` seconds at
        most."""

    @abstractmethod
    def wait_until_readable(self, patience: float, pause: Pause) -> None:
        """Wait until it can be read, ``patience`` seconds at most. What is wrong then, who reads it says."""

    @abstractmethod
    def create(self, group: int | None) -> None:
        """Make an empty one where there is none, for ``group`` to read."""

    @abstractmethod
    def copy_aside(self, revision: str) -> Path | None:
        """A copy of it as it is before it is brought to another ``revision``; None where it can have none."""

    @abstractmethod
    def copy_into(self, copy: Path) -> Copied:
        """Make the empty file ``copy`` an SQLite database of what this one is at one moment."""

    @abstractmethod
    def stand_in(self, *, empty: bool) -> "Engine":
        """An engine for a temporary database, a copy of it or an empty one, to bring to the newest schema."""

    @abstractmethod
    def writing_engine(self, *, create: bool = False, held: Lock | None = None) -> "Engine":
        """An engine for writing it, whose transactions never have to be tried again; with ``create`` it is made. What
        is not ``held`` any more right before a commit is not committed: StoreError."""

    @abstractmethod
    def check_journal(self) -> None:
        """Raises StoreError where it could not be written durably where it is."""

    # --- purging ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def scrub(self, connection: "Connection") -> None:
        """Have what ``connection`` deletes overwritten, as far as that goes at once."""

    @abstractmethod
    def keep_head(self, connection: "Connection", size: int, digest: str) -> None:
        """In the transaction of whoever appends without being the writer: where the chain ends now."""

    @abstractmethod
    def overwrite(self) -> None:
        """Leave nothing of what was deleted in the database's files. Raises what its driver raises."""

    # --- who has it ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def lock(self, *, stays: bool = True, alone: bool = True) -> "AbstractContextManager[Lock]":
        """Keeps others away from it within the block; where several servers can share it, only if ``alone``. Entering
        raises UsageError where somebody has it."""

    @abstractmethod
    def holder(self) -> "Note | None":
        """What is known of who has it; None where nobody has, or that cannot be seen."""

    @abstractmethod
    def read_note(self) -> "Note | None":
        """What the one noted that had it last; None where nothing is."""

    @abstractmethod
    def unheld(self, run_id: str) -> "Unheld | None":
        """Whether nobody has the run: ``left`` where somebody had it, ``copy`` where nobody ever had it in this
        database. None where somebody has it, or that cannot be seen."""

    def status_shown(self, status: str, run_id: str) -> str:
        """A run's status for people: one whose server was killed is ``running`` on record until somebody goes on with
        it, or another server opens the database."""
        from flserver.store.lock import unheld_status

        return status if status != "running" or self.unheld(run_id) is None else unheld_status(status)

    # --- writing ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def recording(self, patience: float, lock: Lock | None) -> "Recording":
        """What the writer writes with, as long as the ``lock`` is held; None: it has to see to that itself."""

    @abstractmethod
    def id_seeds(self) -> "IdSeeds":
        """The ids that a new server process begins with, which no other ever gets."""


def at(where: "str | Place | Database") -> Database:
    """The database at a place, or where somebody has typed that it is.

    Raises UsageError where a password was typed, or what it takes is not installed.
    """
    if isinstance(where, Database):
        return where
    place = place_of(where)
    if isinstance(place, Address):
        from flserver.store.postgres.engines import driver

        driver()
        from flserver.store.postgres.database import Postgres

        return Postgres(place)
    from flserver.store.sqlite_database import SQLite

    return SQLite(place)


def file_of(where: "str | Place | Database", instead: str) -> Path:
    """The file of an SQLite database. Raises UsageError where it is another's, which says what to use ``instead``."""
    place = at(where).place
    if isinstance(place, Address):
        raise UsageError(f"{place} is PostgreSQL's, and this is for the file of an SQLite database: {instead}")
    return place
