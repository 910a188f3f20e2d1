"""Files that survive a power loss: all bytes on the disk before the name is the file's.

Long ones are written past the page cache, where the system can do that (``decisions/past-the-page-cache.md``).
"""

import errno
import fcntl
import mmap
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock

from flserver.files import create

Pieces = Iterable[bytes | memoryview]

WRITEBACK = 4 << 20  # bytes after which the disk is told to begin
PAST_THE_CACHE = 16 << 20  # bytes: the least of a file that is written so
BLOCK = 4 << 20  # bytes that are written at once
WRITERS = 2  # so that the disk has the next block while it writes one
ALIGNED = 4096  # bytes: a multiple of every disk's sectors
REFUSED = (errno.EINVAL, errno.EOPNOTSUPP)  # by file systems that have no such way


def write_durably(file: int, pieces: Pieces) -> None:
    """Write all ``pieces`` to the new file, close it, and return once it would survive a power loss. Raises OSError."""
    try:
        whole = [memoryview(piece) for piece in pieces]
        if not _written_past_the_cache(file, whole):
            _write(file, whole)
        os.fsync(file)
    finally:
        os.close(file)


def write_file(temporary: Path, place: Path, pieces: Pieces, group: int | None = None) -> None:
    """Write a file that is ``place`` once its bytes are durable, by way of ``temporary`` beside it; its name is durable
    with ``sync_folder``. Raises OSError."""
    temporary.unlink(missing_ok=True)
    write_durably(create(temporary, group), pieces)
    os.rename(temporary, place)


def _write(file: int, pieces: list[memoryview]) -> None:
    begun = at = 0
    for piece in pieces:
        rest = piece
        while rest:
            count = os.write(file, rest[:WRITEBACK])
            rest, at = rest[count:], at + count
            if at - begun >= WRITEBACK:
                _begin_writeback(file, begun, at - begun)
                begun = at


def _begin_writeback(file: int, start: int, size: int) -> None:
    """Let the disk begin with what was written, while more is: the fsync, which alone makes it durable, waits less."""
    if hasattr(os, "posix_fadvise"):  # Linux then starts to write what is dirty; only a hint, so a refusal says nothing
        with suppress(OSError):
            os.posix_fadvise(file, start, size, os.POSIX_FADV_DONTNEED)


def _written_past_the_cache(file: int, pieces: list[memoryview]) -> bool:
    """Whether the file was long enough for that, and the system took it so; else the file is empty."""
    size = sum(map(len, pieces))
    if size < PAST_THE_CACHE or not hasattr(os, "O_DIRECT"):
        return False
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, flags | os.O_DIRECT)
        blocks, lock = _Blocks(pieces), Lock()
        with ThreadPoolExecutor(WRITERS, "blocks-of-a-file") as writers:
            written = [writers.submit(_write_blocks, file, blocks, lock) for _ in range(WRITERS)]
        for one in written:
            one.result()
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        fcntl.fcntl(file, fcntl.F_SETFL, flags)
        os.ftruncate(file, 0)
        return False
    os.ftruncate(file, size)  # the last block was filled up with zeros
    return True


class _Blocks:
    """The bytes of ``pieces`` one after another, cut anew."""

    def __init__(self, pieces: list[memoryview]) -> None:
        self._rest: Iterator[memoryview] = (piece.cast("B") for piece in pieces)
        self._piece = memoryview(b"")
        self._at = 0

    def fill(self, block: memoryview) -> tuple[int, int]:
        """Where in the file the next bytes belong, and how many there are in ``block`` now: as many as it holds, fewer
        at the end, where zeros follow, and none afterwards."""
        at, count = self._at, 0
        while count < len(block):
            if not self._piece:
                piece = next(self._rest, None)
                if piece is None:
                    break
                self._piece = piece
            step = min(len(self._piece), len(block) - count)
            block[count : count + step] = self._piece[:step]
            self._piece, count = self._piece[step:], count + step
        filled = -(-count // ALIGNED) * ALIGNED
        block[count:filled] = bytes(filled - count)
        self._at = at + count
        return at, filled


def _write_blocks(file: int, blocks: _Blocks, lock: Lock) -> None:
    """Write blocks, in memory where they may be written from, until there are none."""
    block = memoryview(mmap.mmap(-1, BLOCK))  # shared: a process that is forked meanwhile moves no page of it
    while True:
        with lock:
            at, count = blocks.fill(block)
        if not count:
            return
        done = 0
        while done < count:  # where a block was cut short elsewhere, the rest is refused, and the file written anew
            done += os.pwrite(file, block[done:count], at + done)
