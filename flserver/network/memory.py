"""The memory for updates: a budget for what is being received and held, and buffers that are used again.

What a peer claims costs nothing: a session asks for room only after the first 64 KiB of a body have arrived, and room
is address space that the system backs with memory as bytes come in. Over the budget a session waits for room, unread
bytes stay with the peer, and updates held for their turn move to unlinked files beside the checkpoints; so memory does
not grow with the number of clients, and those held cannot keep those being received from finishing.

More bodies at full speed than there are processors take memory and gain nothing, so a session also waits, briefly, for
one of as many lanes. A slow sender's lane is free again after ``LANE_SECONDS``, and nobody waits longer than that.
"""

import logging
import mmap
import os
import tempfile
import threading
from pathlib import Path

from flserver.clock import Deadline, monotonic
from flserver.errors import ConnectionLost
from flserver.pages import anonymous

logger = logging.getLogger(__name__)

LANE_SECONDS = 0.5


class Room:
    """Room for one body. ``view`` is writable while it is being received."""

    def __init__(self, memory: "ReceiveMemory", buffer: mmap.mmap, size: int) -> None:
        self._memory = memory
        self._buffer: mmap.mmap | None = buffer
        self._size = size
        self.view = memoryview(buffer)[:size]

    def hold(self) -> None:
        """The body is complete and waits for its turn: leave memory where it is tight. ``view`` may change."""
        if self._buffer is None or not self._memory.tight():
            return
        try:
            self.view = self._memory.move_to_file(self.view)
        except OSError as error:  # a full disk: the update is whole, and stays where it is
            logger.warning("an update stays in memory: %s", error.strerror)
        else:
            self._give_back()

    def leave_lane(self) -> None:
        """The body was received and looked at: the next one's turn. A second call does nothing."""
        self._memory.leave_lane(self)

    def release(self) -> None:
        """Nobody reads ``view`` any more. A second call does nothing."""
        self.leave_lane()
        if self._buffer is not None:
            self._give_back()

    def _give_back(self) -> None:
        buffer, self._buffer = self._buffer, None
        assert buffer is not None
        self._memory.give_back(buffer, self._size)


class ReceiveMemory:
    """Hands out rooms within ``budget`` bytes, or four bodies of ``largest`` bytes where that is more."""

    def __init__(self, budget: int, largest: int, directory: Path) -> None:
        self.budget = max(budget, 4 * largest)
        self._directory = directory
        self._lane_count = max(2, os.cpu_count() or 1)
        self._changed = threading.Condition()  # guards everything below
        self._closed = False
        self._in_use = 0
        self._spare: list[mmap.mmap] = []
        self._lanes: dict[Room, float] = {}  # when (monotonic) each was entered

    @property
    def in_use(self) -> int:
        """Bytes of room handed out and not yet given back."""
        return self._in_use

    def take(self, size: int, deadline: Deadline) -> Room:
        """Room for ``size`` bytes. Waits while the budget is used up, and for a lane.

        Raises ConnectionLost when there is none by the deadline, the system has none, or :meth:`close` was called.
        """
        with self._changed:
            self._changed.wait_for(self._lane_is_free, min(LANE_SECONDS, deadline.remaining()))
            fits = self._changed.wait_for(lambda: self._fits(size) or self._closed, deadline.remaining())
            if self._closed:
                raise ConnectionLost("the server is stopping", "other")
            if not fits:
                raise ConnectionLost("no memory became free for it in time", "timeout")
            fitting = [buffer for buffer in self._spare if len(buffer) >= size]
            try:
                buffer = min(fitting, key=len) if fitting else anonymous(size)
            except OSError as error:
                raise ConnectionLost(f"the system has no memory for it: {error.strerror}") from error
            if fitting:
                self._spare.remove(buffer)
            self._in_use += size
            room = Room(self, buffer, size)
            self._lanes[room] = monotonic()
            return room

    def close(self) -> None:
        """Nobody gets room any more; who waits for it stops waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return self._in_use + size <= self.budget

    def _lane_is_free(self) -> bool:
        recent = monotonic() - LANE_SECONDS
        return self._closed or sum(entered > recent for entered in self._lanes.values()) < self._lane_count

    def leave_lane(self, room: Room) -> None:
        with self._changed:
            if self._lanes.pop(room, None) is not None:
                self._changed.notify_all()

    def tight(self) -> bool:
        """Whether updates that wait for their turn should leave memory: half of it is for those being received."""
        return self._in_use > self.budget // 2

    def give_back(self, buffer: mmap.mmap, size: int) -> None:
        with self._changed:
            self._in_use -= size
            # Kept for the next update: fresh pages cost as much as copying the update once.
            if self._in_use + sum(map(len, self._spare)) + len(buffer) <= self.budget // 2:
                self._spare.append(buffer)
            self._changed.notify_all()

    def move_to_file(self, body: memoryview) -> memoryview:
        """A copy of ``body`` that lies in an unlinked file, to be read through the page cache."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._directory) as file:
            rest = body
            while rest:
                rest = rest[os.write(file.fileno(), rest) :]
            return memoryview(mmap.mmap(file.fileno(), len(body), access=mmap.ACCESS_READ))
