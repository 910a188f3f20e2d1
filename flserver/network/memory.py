"""The memory for updates: a budget for what is being received and held, and buffers that are used again.

What a peer claims costs nothing: a session asks for room only after the first 64 KiB of a body have arrived, room is
address space, and it is counted and backed with memory in steps, as bytes arrive. Nobody waits for memory
that somebody else holds: what the budget has no place for goes on in an unlinked file (``--spool-dir``), as long
as the disk has more than its reserve. So memory does not grow with the number of clients, and a peer that holds what it
sent holds nobody up. What all rooms of one owner may hold is its session's to say. Of a body that is longer than the
model's updates usually are, no more than such a one lies in memory; the rest goes to a file whatever the budget has.

Bodies come in by ``lanes``, and of as many buffers as there are lanes all but one are kept for the next ones; that
one is the next model's (``models.pages``). The
strategy's sum is counted too (``scratch``).
"""

import errno
import logging
import mmap
import os
import tempfile
import threading
import weakref
from collections.abc import Hashable
from pathlib import Path
from typing import IO

from flserver.clock import monotonic
from flserver.errors import NoRoom
from flserver.models.pages import anonymous, drop, keep_nothing, let_go, mapped, unused, used_again
from flserver.network.lanes import Lane, Lanes, processors

logger = logging.getLogger(__name__)

FIRST_STEP = 256 * 2**10  # bytes; from there on a body grows by as much as it has
STEP = 4 * 2**20  # bytes at once at most: two huge pages
FEW_BYTES = 32 * 2**20  # bytes of a usual body, up to which memory for one more is little
DISK_RESERVE = 64 * 2**20  # bytes left free on the disk, and eight bodies more: a checkpoint must find its place


class Room:
    """Room for one body. ``view`` is writable while it is being received; ``make`` and ``hold`` may change it. It may
    be shorter than the body: ``make`` sees that it is long enough."""

    def __init__(
        self,
        memory: "ReceiveMemory",
        lane: Lane,
        buffer: mmap.mmap,
        size: int,
        charged: int,
        owner: Hashable,
        share: int,
    ) -> None:
        self._memory, self._lane = memory, lane
        self.owner, self.share, self.owned = owner, share, 0  # of the memory's own books
        self._buffer: mmap.mmap | None = buffer
        self._file: IO[bytes] | None = None
        self.size = size
        self.view = memoryview(buffer)[: min(size, memory.most)]
        self._charged, self._made = charged, min(charged, len(self.view))

    def make(self, upto: int, arrived: int) -> bool:
        """Make sure of the first ``upto`` bytes, of which the first ``arrived`` are in use. Whether they moved: then
        ``view`` is another one, and the old one may be somebody else's.

        Raises NoRoom where neither memory nor disk has a place for them.
        """
        self._memory.own(self, arrived)
        self._lane.arrived = arrived
        if upto <= self._made:
            return False
        step, moved = min(STEP, max(FIRST_STEP, upto)), False
        wanted = min(self.size, -(-upto // step) * step)
        try:
            if self._file is None:
                in_memory = min(wanted, len(self.view))
                if upto <= in_memory and self._memory.charge(in_memory - self._made):
                    self._charged += in_memory - self._made
                    self._made = in_memory
                    return False
                self._file = self._memory.file()
                os.ftruncate(self._file.fileno(), self.size)
                self._memory.allocate(self._file.fileno(), 0, wanted)
                self._move_to(mapped(self._file.fileno(), self.size, writable=True), arrived)
                moved = True
            else:
                self._memory.allocate(self._file.fileno(), self._made, wanted - self._made)
        except OSError as error:
            raise NoRoom(f"neither memory nor disk has room for it: {error.strerror}") from error
        self._made = wanted
        return moved

    def _move_to(self, view: memoryview, arrived: int) -> None:
        view[:arrived] = self.view[:arrived]
        self.view = view
        self._give_back()

    def hold(self, size: int, *, waits: bool = True) -> None:
        """The body is complete, in the first ``size`` bytes. Where it ``waits`` for others, it leaves its lane, and
        memory where that is tight."""
        self._close_file()
        self._lane.arrived, self._lane.complete = size, monotonic()
        if not waits:
            return
        self.leave_lane()
        if self._buffer is None or not self._memory.tight():
            return
        try:
            self.view = self._memory.move_to_file(self.view[:size])
        except OSError as error:  # a full disk: the update is whole, and stays where it is
            logger.warning("an update stays in memory: %s", error.strerror)
        else:
            self._give_back()

    def leave_lane(self) -> None:
        """The body is not needed in memory any more, or waits there: the next one's turn. A second call does
        nothing."""
        self._memory.lanes.leave(self._lane)

    def release(self) -> None:
        """Nobody reads ``view`` any more. A second call does nothing."""
        self._close_file()
        self._memory.own(self, 0)
        if self._buffer is not None:
            self._give_back()
        self.leave_lane()  # last: the next one is to find the buffer

    def _close_file(self) -> None:
        if self._file is not None:  # what is mapped stays
            self._file.close()

    def _give_back(self) -> None:
        buffer, self._buffer = self._buffer, None
        assert buffer is not None
        self._memory.give_back(buffer, self._charged)


def disk_reserve(usual: int) -> int:
    """Bytes that stay free on the disk where bodies are ``usual`` bytes long."""
    return DISK_RESERVE + 8 * usual


class ReceiveMemory:
    """Hands out rooms within ``budget`` bytes, or four bodies of ``usual`` bytes where that is more."""

    def __init__(self, budget: int, usual: int, directory: Path) -> None:
        self.budget = budget
        self.lanes = Lanes(max(2, processors()))
        self.expect(usual)
        self._directory = directory
        self._lock = threading.RLock()  # guards everything below; again where garbage is found under it (``scratch``)
        self._in_use = 0
        self._spare: list[mmap.mmap] = []  # within the budget too
        self._owned: dict[Hashable, int] = {}  # bytes by owner, in memory and in files

    def expect(self, usual: int) -> None:
        """How long bodies are, where it was not known before. Not while there are rooms."""
        self.budget = max(self.budget, 4 * usual)
        # One more than processors: while one waits for its sender, or for the interpreter. Of large ones two do.
        self.lanes.count = processors() + 1 if usual <= FEW_BYTES else max(2, processors())
        self.most = usual + STEP  # bytes of one body in memory
        self._disk_reserve = disk_reserve(usual)

    @property
    def in_use(self) -> int:
        """Bytes of memory that rooms use, and that were not yet given back."""
        return self._in_use

    def take(self, size: int, owner: Hashable, share: int) -> Room:
        """Room for ``size`` bytes, of which none are made sure of yet. Waits for a lane.

        All rooms of one ``owner`` have ``share`` bytes together. Raises NoRoom where the system has no address space,
        and ConnectionLost when :meth:`close` was called.
        """
        lane = self.lanes.enter()
        try:
            buffer, charged = self._buffer(size)
        except BaseException:
            self.lanes.leave(lane)
            raise
        return Room(self, lane, buffer, size, charged, owner, share)

    def _buffer(self, size: int) -> tuple[mmap.mmap, int]:
        """A buffer for a body, and how much of it is counted: all of one that was used before."""
        with self._lock:
            # All of one that was used before is backed by memory, and so is charged: not a large one for a small body.
            needed = min(size, self.most)
            fitting = [buffer for buffer in self._spare if needed <= len(buffer) <= max(2 * needed, STEP)]
            if fitting:
                buffer = min(fitting, key=len)
                self._spare.remove(buffer)
                self._in_use += len(buffer)
                return buffer, len(buffer)
            if (again := used_again(needed)) is not None:
                if self.charge(len(again)):
                    return again, len(again)
                let_go(again)
            try:
                return unused(needed), 0
            except OSError as error:
                raise NoRoom(f"the system has no memory for it: {error.strerror}") from error

    def close(self) -> None:
        """Nobody gets room any more; who waits for it stops waiting. What was kept for the next ones is given back."""
        self.lanes.close()
        with self._lock:
            while self._spare:
                drop(self._spare.pop())
        keep_nothing()

    def charge(self, size: int, *, anyway: bool = False) -> bool:
        """Count ``size`` more bytes, if the budget has them, or ``anyway``; spare buffers make way."""
        with self._lock:
            if self._in_use + size > self.budget and not anyway:
                return False
            while self._spare and self._in_use + size + sum(map(len, self._spare)) > self.budget:
                let_go(self._spare.pop())
            self._in_use += size
            return True

    def uncharge(self, size: int) -> None:
        """``size`` of the bytes that were counted are not in use any more."""
        with self._lock:
            self._in_use -= size

    def scratch(self, size: int) -> memoryview:
        """``size`` bytes of zeros for as long as the caller keeps them, 1 or more: in memory where the budget has them,
        else in an unlinked file, which leaves the disk twice its reserve: bodies have the other half. Raises NoRoom
        where neither has a place."""
        try:
            if self.charge(size):
                buffer = anonymous(size)
                weakref.finalize(buffer, self.uncharge, size)
                return memoryview(buffer)
            with self.file() as file:
                os.ftruncate(file.fileno(), size)
                self.allocate(file.fileno(), 0, size, leaving=2 * self._disk_reserve)
                return mapped(file.fileno(), size, writable=True)
        except OSError as error:
            raise NoRoom(f"neither memory nor disk has room for the round's sum: {error.strerror}") from error

    def own(self, room: Room, size: int) -> None:
        """Count ``size`` bytes of the room as its owner's; 0 for those of a room that was released.

        Raises NoRoom where that is more than the owner's share.
        """
        with self._lock:
            owned = self._owned.get(room.owner, 0) - room.owned + size
            if size > room.share:
                raise NoRoom(f"it holds more than {room.share} bytes: --max-update-size {room.size} takes it")
            if size and owned > room.share:
                raise NoRoom(f"more than {room.share} bytes of updates are under way from where it comes")
            room.owned = size
            self._owned[room.owner] = owned
            if not owned:
                del self._owned[room.owner]

    def tight(self) -> bool:
        """Whether updates that wait for their turn should leave memory: half of it is for those being received."""
        return self._in_use > self.budget // 2

    def give_back(self, buffer: mmap.mmap, charged: int) -> None:
        """Take a room's buffer back, which was charged with so many bytes."""
        with self._lock:
            self._in_use -= charged
            # Kept for the next update: fresh pages cost as much as copying the update once. Where all lanes are free,
            # as at the end of a round, one is let go: the new model lies in it. A longer one goes back to the system.
            spare, fits = sum(map(len, self._spare)), len(buffer) <= self.most - STEP
            if fits and len(self._spare) < self.lanes.count - 1 and self._in_use + spare + len(buffer) <= self.budget:
                self._spare.append(buffer)
            elif fits:
                let_go(buffer)
            else:
                drop(buffer)

    # --- files -------------------------------------------------------------------------------------------------------

    def file(self) -> IO[bytes]:
        """A new unlinked file. Raises OSError."""
        self._directory.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=self._directory)

    def allocate(self, descriptor: int, start: int, size: int, *, leaving: int | None = None) -> None:
        """Make sure of a file's bytes: a page of a mapping that the disk has no place for ends the process.

        Raises OSError, also where the disk would have less than its reserve left, or less than ``leaving``.
        """
        disk = os.fstatvfs(descriptor)
        if disk.f_bavail * disk.f_frsize - size < (leaving or self._disk_reserve):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.posix_fallocate(descriptor, start, size)

    def move_to_file(self, body: memoryview) -> memoryview:
        """A copy of ``body`` that lies in an unlinked file, to be read through the page cache. Raises OSError."""
        with self.file() as file:
            self.allocate(file.fileno(), 0, len(body))
            rest = body
            while rest:
                rest = rest[os.write(file.fileno(), rest) :]
            return mapped(file.fileno(), len(body), writable=False)
