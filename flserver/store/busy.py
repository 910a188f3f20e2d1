"""A database that another program has locked is waited for: whoever may read a file can lock it."""

import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from flserver.clock import Deadline
from flserver.errors import UsageError
from flserver.store.rollback import roll_back
from flserver.store.sqlite import DATABASE_ERRORS, cause, open_for_reading

PAUSE = 0.1
"""Seconds between two tries, for locks that SQLite itself does not wait for."""

logger = logging.getLogger(__name__)
T = TypeVar("T")


def when_free(path: Path, patience: float, pause: Callable[[float], object], attempt: Callable[[], T]) -> T:
    """What ``attempt`` gives as soon as no other program's lock on the database at ``path`` keeps it from that.

    Whoever may read a database can lock it: that is logged, and waited for, ``patience`` seconds in all; then the
    database's own error is raised. ``pause`` waits some seconds.
    """
    deadline, told = Deadline.after(patience), False
    while True:
        try:
            value = attempt()
        except DATABASE_ERRORS as error:
            if not _is_lock(error) or deadline.passed:
                raise
            if not told:
                logger.warning(
                    "%s is locked by another program (%s): waiting for up to %.0f s; nothing is answered meanwhile",
                    *(path, cause(error), deadline.remaining()),
                )
                told = True
            pause(PAUSE)
        else:
            if told:
                logger.warning("%s is free again", path)
            return value


def _is_lock(error: BaseException) -> bool:
    code = getattr(getattr(error, "orig", error), "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL)


def wait_until_readable(path: Path, patience: float, pause: Callable[[float], object]) -> None:
    """Wait until no other program's lock keeps the database at ``path``, if it is there, from being read: as
    :func:`when_free`. What a crash left half done in it is undone. What else is wrong with it, who reads it says."""
    with suppress(UsageError, *DATABASE_ERRORS):
        if path.is_file():
            when_free(path, patience, pause, lambda: roll_back(path))
            when_free(path, patience, pause, lambda: open_for_reading(path).close())
