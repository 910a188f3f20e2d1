"""Large memory that is cheap to touch for the first time, or was touched before, and files as memory.

Fresh pages of 4 KiB cost as much as what is written into them: 45 MB are 11,000 page faults. Huge pages are 22, but
where memory is in pieces the system moves others' pages for them. So what one model, or one update, lay in is kept for
the next one (``used_again``).
"""

import contextlib
import ctypes
import mmap
import os
import weakref
from collections import deque

WORTH_KEEPING = 2**20  # bytes
SMALL_PAGED = 2 * 2**20  # bytes: one huge page of x86


def anonymous(size: int) -> mmap.mmap:
    """``size`` bytes of zeros, 1 or more. They take memory only as they are touched, in huge pages where possible.

    The first 2 MiB are in small ones: what is touched only at its start then takes no more than that. Raises OSError
    where the system promises no such amount.
    """
    buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them: only slower
            if size > SMALL_PAGED:
                buffer.madvise(mmap.MADV_HUGEPAGE, SMALL_PAGED)
    return buffer


def used_again(size: int) -> mmap.mmap | None:
    """What was let go last, with whatever is in it, where that is ``size`` bytes or little more."""
    with contextlib.suppress(IndexError):
        buffer = _kept.pop()
        if size <= len(buffer) <= size + 2 * _more(size):
            return buffer
        _kept.append(buffer)
    return None


def unused(size: int) -> mmap.mmap:
    """``size`` bytes of zeros, and some more where it is worth to keep them: so that a message with a model can lie
    where the model lay. Raises OSError as ``anonymous``."""
    return anonymous(size + _more(size) if size >= WORTH_KEEPING else size)


def let_go(buffer: mmap.mmap) -> None:
    """Nobody needs what is in it, although views of it may live on for as long as it takes their threads to end. It is
    kept for the next one to use, and the one that was kept before is given back to the system at once.

    Takes no lock: it may be called wherever garbage is found."""
    if len(buffer) >= WORTH_KEEPING:
        keep_nothing()
        _kept.append(buffer)
    else:
        drop(buffer)


def keep_nothing() -> None:
    """Give what was kept back to the system: nothing of its size is to come."""
    with contextlib.suppress(IndexError):
        drop(_kept.popleft())


def drop(buffer: mmap.mmap) -> None:
    """Give what is in it back to the system at once, although views of it may live on."""
    buffer.madvise(mmap.MADV_DONTNEED)


def lent(size: int) -> memoryview:
    """``size`` bytes, 1 or more, with whatever is in them; let go when nobody looks at them. Raises OSError."""
    buffer = used_again(size) or unused(size)
    pages = (ctypes.c_ubyte * size).from_buffer(buffer)
    weakref.finalize(pages, let_go, buffer).atexit = False
    return memoryview(pages).cast("B")


_kept: deque[mmap.mmap] = deque(maxlen=1)


def _more(size: int) -> int:
    """By how much a message with a model of so many bytes may be longer."""
    return size // 64 + 2**16


def mapped(descriptor: int, size: int, *, writable: bool) -> memoryview:
    """The first ``size`` bytes of a file, 1 or more, as memory. The file may be closed: mmap.mmap would keep a
    descriptor of its own for as long as the memory is used, and there are more updates than descriptors.

    Raises OSError.
    """
    may = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    address = _LIBC.mmap(None, size, may, mmap.MAP_SHARED, descriptor, 0)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    pages = (ctypes.c_ubyte * size).from_address(address)
    # Whatever looks at it keeps ``pages``; at the process's end the system takes it back.
    weakref.finalize(pages, _LIBC.munmap, address, size).atexit = False
    view = memoryview(pages).cast("B")
    return view if writable else view.toreadonly()


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED = ctypes.c_void_p(-1).value
