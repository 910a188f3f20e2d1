"""What failed at a node, and whose loss that is. A strategy's fault would be one on any machine, and costs the run as
it does where there are no nodes; memory that a node lacks is that node's, and others may have it.
"""

import errno

from flserver.errors import FlserverError, NoRoom, StoreError, one_line
from flserver.ingest import told as t
from flserver.ingest.asking import failure_of

OF_TORCH = "can't allocate memory"  # it has no error of its own for that on a CPU
# Memory, a disk, one's share of it, or descriptors of a process or of the machine, of which there are no more.
OF_THE_SYSTEM = (errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)


def out_of_memory(error: BaseException) -> bool:
    """Whether there was no memory for something, or no file in its place, as Python, numpy, torch or the system say so,
    or whoever counts it (``network.memory``)."""
    if isinstance(error, OSError):
        return error.errno in OF_THE_SYSTEM
    return isinstance(error, MemoryError | NoRoom) or (isinstance(error, RuntimeError) and OF_TORCH in str(error))


def said_of(error: BaseException) -> t.Failed | t.GaveUp:
    """What a node tells the desk of something that failed there."""
    if out_of_memory(error):
        return t.GaveUp(f"it is out of memory: {one_line(error)}")
    return t.Failed(failure_of(error))


class NodesFault(FlserverError):
    """Something failed that is one node's alone, and that ``node``'s updates are lost of."""

    def __init__(self, node: str, why: str) -> None:
        super().__init__(why)
        self.node, self.why = node, why

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return NodesFault, (self.node, self.why)


def is_its_own(error: BaseException) -> bool:
    """Whether what failed while a new model was being made is that node's alone."""
    return isinstance(error, StoreError) or out_of_memory(error)
