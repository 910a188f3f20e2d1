"""Files that survive a power loss: all bytes on the disk before the name is the file's.

They are written past the page cache, where the system can do that (``decisions/past-the-page-cache.md``).
"""

import errno
import fcntl
import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from flserver.files import create

Pieces = Iterable[bytes | memoryview]

BLOCK = 1 << 20  # bytes that are written at once
PAST_THE_CACHE: int = getattr(os, "O_DIRECT", 0)
"""The flag of a file that is written so; 0 where there is none."""
REFUSED = (errno.EINVAL, errno.EOPNOTSUPP)  # by file systems that have no such way, and of what is not aligned


def write_durably(file: int, pieces: Pieces) -> None:
    """Write all ``pieces`` to the new file, close it, and return once it would survive a power loss. No more than one
    of them is needed at a time. Raises OSError."""
    try:
        _turn(file, past_the_cache=True)
        at = 0
        for block in _in_blocks(pieces):
            if len(block) < BLOCK:  # the last one ends where no disk's sector does
                _turn(file, past_the_cache=False)
            _write(file, block)
            _begin_writeback(file, at, len(block))
            at += len(block)
        os.fsync(file)
    finally:
        os.close(file)


def write_file(temporary: Path, place: Path, pieces: Pieces, group: int | None = None) -> None:
    """Write a file that is ``place`` once its bytes are durable, by way of ``temporary`` beside it; its name is durable
    with ``sync_folder``. Raises OSError."""
    temporary.unlink(missing_ok=True)
    write_durably(create(temporary, group), pieces)
    os.rename(temporary, place)


def _in_blocks(pieces: Pieces) -> Iterator[memoryview]:
    """The bytes one after another in blocks, of which the last may be shorter, where a disk may read them from memory.
    Each is there until the next one is asked for."""
    block, filled = memoryview(mmap.mmap(-1, BLOCK)), 0  # shared: a process that is forked meanwhile moves no page
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            step = min(len(rest), BLOCK - filled)
            block[filled : filled + step] = rest[:step]
            rest, filled = rest[step:], filled + step
            if filled == BLOCK:
                yield block
                filled = 0
    if filled:
        yield block[:filled]


def _write(file: int, block: memoryview) -> None:
    """Write the block: by way of the cache from where the system refuses the other way."""
    while block:
        try:
            block = block[os.write(file, block) :]
        except OSError as error:
            if error.errno not in REFUSED or not _turn(file, past_the_cache=False):
                raise


def _turn(file: int, *, past_the_cache: bool) -> bool:
    """Have the file written so from here on. Whether that is another way than before."""
    before = fcntl.fcntl(file, fcntl.F_GETFL)
    after = before | PAST_THE_CACHE if past_the_cache else before & ~PAST_THE_CACHE
    if after == before:
        return False
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, after)
    except OSError:
        if not past_the_cache:
            raise
        return False
    return True


def _begin_writeback(file: int, start: int, size: int) -> None:
    """Let the disk begin with what is in the cache, while more is written: the fsync, which alone makes it durable,
    waits less."""
    if hasattr(os, "posix_fadvise"):  # Linux then starts to write what is dirty; only a hint, so a refusal says nothing
        with suppress(OSError):
            os.posix_fadvise(file, start, size, os.POSIX_FADV_DONTNEED)
