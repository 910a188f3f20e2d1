"""Who has a database: one server, or one upgrade, at a time; and how far its record had come."""

import fcntl
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from flserver.clock import Deadline, utc_now
from flserver.errors import UsageError
from flserver.files import FILE_MODE, create

LOOK_SECONDS = 1.0  # for which those who only look who has it may be in the way
Unheld = Literal["left", "copy"]
NOTE_BYTES = 256  # what the file holds, always as many, so that it is written anew without more room


@dataclass(frozen=True, kw_only=True)
class Note:
    """What stands in the lock's file: the process that has, or had, the database, ``since`` when (UTC), and the chain's
    head that it had made durable: the last event's number (0: none is known) and digest.

    The head is written after each commit and not synced: it may lag behind the database, and never be ahead of it.
    """

    pid: int
    since: str
    sequence: int = 0
    digest: str = ""


def read_note(path: Path) -> Note | None:
    """What the lock's file beside the database at ``path`` says; None where there is none, or it says nothing."""
    try:
        descriptor = os.open(_lock_of(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return _note(descriptor)
    finally:
        os.close(descriptor)


def holder(path: Path) -> Note | None:
    """What the process wrote down that has the database at ``path``; None where none has, or that cannot be seen."""
    try:
        descriptor = os.open(_lock_of(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _note(descriptor)
    except OSError:
        return None
    else:
        return None
    finally:
        os.close(descriptor)


def unheld_status(status: str) -> str:
    """A run's status for people where nobody has the run."""
    return f"{status} (no server has it)" if status == "running" else status


def unheld(path: Path) -> Unheld | None:
    """Whether nobody has the database at ``path``: ``left`` where somebody had it, ``copy`` where nobody ever had it
    under that name. None where somebody has it, or that cannot be seen."""
    try:
        descriptor = os.open(_lock_of(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return "copy"
    except OSError:
        return None
    try:
        return "left" if _shared(descriptor) else None
    finally:
        os.close(descriptor)


def _shared(descriptor: int) -> bool:
    """Whether nobody has the lock for itself. It is this descriptor's then, until that is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class DatabaseLock:
    """Keeps a second server, or an upgrade, away from a database while the block runs.

    The lock is on a file of its own beside the database (``runs.sqlite.lock``): SQLite's own locks are dropped when any
    descriptor of the database is closed. That file stays there, unless it is this one's and ``stays`` is False at the
    end: then nothing came of it. ``before`` is what it said of whoever had the database before, None where it said
    nothing. Entering raises UsageError where somebody else has the lock, or there can be none.
    """

    def __init__(self, path: Path, *, stays: bool = True) -> None:
        self.stays = stays
        self._database = path
        self._file = _lock_of(path)
        self._made = False
        self._descriptor: int | None = None
        self.before: Note | None = None
        self._own: Note | None = None

    def __enter__(self) -> Self:
        looked = Deadline.after(LOOK_SECONDS)
        while self._descriptor is None:
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is(descriptor, self._file):  # else who had it has just taken the file away
                    self._sign(descriptor)
                    self._descriptor = descriptor
            except BlockingIOError as error:
                if _shared(descriptor) and not looked.passed:  # somebody looks who has it, and is gone in a moment
                    continue
                holder = _note(descriptor)
                named = "" if holder is None else f": process {holder.pid}, since {holder.since}"
                raise UsageError(f"another flserver has {self._database} open{named}") from error
            except OSError as error:
                raise UsageError(f"{self._file} cannot be locked: {error.strerror}") from error
            finally:
                if self._descriptor is None:
                    os.close(descriptor)
        return self

    def _sign(self, descriptor: int) -> None:
        """Write down who has it now, and keep how far the record had come."""
        self.before = before = _note(descriptor) if self._database.exists() else None  # else it was of another one
        own = Note(pid=os.getpid(), since=utc_now())
        self._own = own if before is None else replace(own, sequence=before.sequence, digest=before.digest)
        _write(descriptor, self._own)

    def note_head(self, sequence: int, digest: str) -> None:
        """Write down that the event ``sequence`` with that ``digest`` is durable. Raises OSError."""
        if self._descriptor is not None and self._own is not None:  # while the block runs
            _write(self._descriptor, replace(self._own, sequence=sequence, digest=digest))

    def require_held(self) -> None:
        """The lock is the operating system's: it is held until the block ends."""

    def take_run(self, run_id: str) -> None:
        """Whoever has the database has every run in it."""

    def require_run(self) -> None:
        """Nobody else can have it: the lock is the operating system's."""

    def try_run(self, run_id: str) -> bool:
        return True

    def left_over(self, run_ids: Sequence[str]) -> list[str]:
        return list(run_ids)

    def takes_over(self, run_id: str) -> bool:
        return True

    def give_back(self, run_id: str) -> None:
        """It stays this one's, as all are."""

    def _open(self) -> int:
        try:
            with suppress(FileExistsError):
                descriptor = create(self._file)  # readers have no use for it: it is not --group's
                self._made = True
                return descriptor
            self._made = False
            return os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            raise UsageError(f"{self._file} cannot be opened: {error.strerror}") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            if self._made and not self.stays:
                self._file.unlink(missing_ok=True)  # while it is locked: nobody else's is taken away
            os.close(self._descriptor)
            self._descriptor = None


def _lock_of(path: Path) -> Path:
    real = path.resolve()  # two names of one database are one lock
    return real.with_name(real.name + ".lock")


def _note(descriptor: int) -> Note | None:
    """What the file says; None where it says nothing, as an older flserver's."""
    with suppress(OSError, ValueError, TypeError, RecursionError):
        found = Note(**json.loads(os.pread(descriptor, NOTE_BYTES, 0)))
        if type(found.pid) is int and type(found.sequence) is int and isinstance(found.digest, str):
            return found
    return None


def _write(descriptor: int, note: Note) -> None:
    os.pwrite(descriptor, json.dumps(asdict(note)).encode().ljust(NOTE_BYTES - 1) + b"\n", 0)


def _is(descriptor: int, file: Path) -> bool:
    """Whether the name is still that of the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False
