"""SQLite's write-ahead log: how it begins, how a stop and a failure leave it, and what of it can be read.

https://www.sqlite.org/fileformat2.html#the_write_ahead_log has its form.
"""

import logging
import sqlite3
import struct
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import Connection

from flserver.clock import Deadline
from flserver.errors import StoreError, UsageError
from flserver.files import follow
from flserver.store.sqlite import DATABASE_ERRORS, driver_of, open_for_reading, store_errors, writing_engine

CLOSE_PATIENCE = 1.0
"""Seconds that a clean stop waits for readers, to leave a database in one file."""
CLOSE_PAUSE = 0.02
"""Seconds between two tries of that."""
HEADER, FRAME_HEADER = 32, 24  # bytes
MAGIC = {0x377F0682: "<", 0x377F0683: ">"}  # and how the words that are summed up are written

logger = logging.getLogger(__name__)


def set_wal(connection: Connection, path: Path) -> None:
    """Switch the file to a write-ahead log. Not in a transaction: the PRAGMA refuses to run in one.

    Raises StoreError where the file system cannot have one.
    """
    mode = driver_of(connection).execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError(f"{path} cannot use SQLite's WAL (journal_mode stays {mode}): is it on a network disk?")


def share_companions(path: Path) -> None:
    """Let who may read the database at ``path``, which is open, read what SQLite has made beside it: it gives those
    files the database's mode, but only root's its group."""
    real = path.resolve()
    for end in ("-wal", "-shm"):
        follow(real, real.with_name(real.name + end))


def check_wal(path: Path) -> None:
    """Raises StoreError where the database at ``path`` could not have a write-ahead log. What is made beside it to find
    that out is gone afterwards."""
    with store_errors(f"{path} cannot be written"), TemporaryDirectory(prefix=".flserver-", dir=path.parent) as folder:
        beside = Path(folder) / path.name
        with writing_engine(beside, create=True).connect() as connection:
            set_wal(connection, path)


def leave_one_file(connection: Connection, path: Path, pause: Callable[[float], object]) -> None:
    """Fold the WAL into the file at ``path``, where the one connection that writes is about to be closed.

    Readers of a WAL need to write beside it; after this they need not. All is durable by now, so a reader that does not
    let go within ``CLOSE_PATIENCE`` costs the tidy end, not the run: that is logged. ``pause`` waits some seconds;
    another process's reader gives no sign that could be waited for.
    """
    driver, patience = driver_of(connection), Deadline.after(CLOSE_PATIENCE)
    driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    while True:
        try:
            driver.execute("PRAGMA journal_mode = DELETE")
            return
        except sqlite3.OperationalError as error:  # locked: SQLite does not wait for readers here
            if patience.passed:
                logger.warning("%s is left in WAL mode, somebody reads it: %s", path, error)
                return
        pause(CLOSE_PAUSE)


def leave_as_it_is(connection: Connection, path: Path) -> None:
    """Close the connection that writes, after something failed, without another write or sync of the WAL.

    The last one that closes would fold the WAL into the file, and an fsync that failed is not to be tried again: what
    the kernel has dropped, the second one does not notice. So a reader stays for longer; it cannot fold.
    """
    with suppress(UsageError, *DATABASE_ERRORS), ExitStack() as stack:
        try:
            stack.enter_context(closing(open_for_reading(path)))
        finally:
            connection.close()


def fold_left_over(connection: Connection, path: Path) -> None:
    """Fold the WAL that a server left that did not end cleanly into the file at ``path``, and begin a new one.

    Of its last commits it is not known whether they are on the disk or in the kernel's memory only, after an fsync that
    failed. Written anew and synced, they are, before anything is built on them.
    """
    busy, frames, _ = driver_of(connection).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy and frames:
        logger.warning("%s: somebody reads what a server left in its -wal file: it stays there", path)


@dataclass(frozen=True, kw_only=True)
class Frames:
    """What a WAL holds: the first ``sound`` frames are in order, and as many as ``lost`` more that were written after
    them, which nobody reads; ``committed`` of these end a transaction."""

    sound: int
    lost: int
    committed: int


def read_frames(path: Path) -> Frames:
    """Check the WAL of the database at ``path``, frame by frame; no frames where there is none. Raises OSError.

    A frame holds a page, and a checksum of all up to it: where one does not fit, SQLite reads none from there on.
    Frames with another salt are of an earlier log, over which this one was written: they are over.
    """
    real = path.resolve()
    try:
        log = real.with_name(f"{real.name}-wal").read_bytes()
    except FileNotFoundError:
        return Frames(sound=0, lost=0, committed=0)
    if not log:
        return Frames(sound=0, lost=0, committed=0)
    magic, _, page, _, salt, *stated = struct.unpack(">IIII8sII", log[:HEADER].ljust(HEADER, b"\0"))
    order = MAGIC.get(magic)
    whole = order is not None and page >= 512 and page & (page - 1) == 0
    sums = _sums(order or "<", log[: HEADER - 8], (0, 0))
    whole = whole and list(sums) == stated
    size = FRAME_HEADER + page if whole else FRAME_HEADER + 4096
    sound = lost = committed = 0
    for at in range(HEADER, len(log), size):
        frame = log[at : at + size]
        _, pages, own_salt, *stated = struct.unpack(">II8sII", frame[:FRAME_HEADER].ljust(FRAME_HEADER, b"\0"))
        if whole and own_salt != salt and not lost:
            break
        if whole and not lost and len(frame) == size:
            sums = _sums(order or "<", frame[FRAME_HEADER:], _sums(order or "<", frame[:8], sums))
            if list(sums) == stated:
                sound += 1
                continue
        lost += 1
        committed += pages > 0
    return Frames(sound=sound, lost=lost, committed=committed)


def _sums(order: str, data: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    """Both checksums after ``data``, whose size is a multiple of 8."""
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    one, two = sums
    for at in range(0, len(words), 2):
        one = (one + words[at] + two) & 0xFFFFFFFF
        two = (two + words[at + 1] + one) & 0xFFFFFFFF
    return one, two
