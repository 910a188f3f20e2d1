"""Who has a database: one server, or one upgrade, at a time."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from flserver.errors import UsageError
from flserver.files import FILE_MODE, create


class DatabaseLock:
    """Keeps a second server, or an upgrade, away from a database while the block runs.

    The lock is on a file of its own beside the database (``runs.sqlite.lock``): SQLite's own locks are dropped when any
    descriptor of the database is closed. That file stays there, unless it is this one's and ``stays`` is False at the
    end: then nothing came of it. Entering raises UsageError where somebody else has the lock, or there can be none.
    """

    def __init__(self, path: Path, *, stays: bool = True) -> None:
        self.stays = stays
        self._database = path
        real = path.resolve()  # two names of one database are one lock
        self._file = real.with_name(real.name + ".lock")
        self._made = False
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        while self._descriptor is None:
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is(descriptor, self._file):  # else who had it has just taken the file away
                    self._descriptor = descriptor
            except BlockingIOError as error:
                raise UsageError(f"another flserver has {self._database} open") from error
            except OSError as error:
                raise UsageError(f"{self._file} cannot be locked: {error.strerror}") from error
            finally:
                if self._descriptor is None:
                    os.close(descriptor)
        return self

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


def _is(descriptor: int, file: Path) -> bool:
    """Whether the name is still that of the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False
