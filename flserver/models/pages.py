"""Large memory that is cheap to touch for the first time, and files as memory.

Fresh pages of 4 KiB cost as much as what is written into them: 45 MB are 11,000 page faults. Huge pages are 22.
"""

import contextlib
import ctypes
import mmap
import os
import weakref

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
