"""Large memory that is cheap to touch for the first time.

Fresh pages of 4 KiB cost as much as what is written into them: 45 MB are 11,000 page faults. Huge pages are 22.
"""

import contextlib
import mmap

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
