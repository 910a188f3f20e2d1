"""How many bodies are received, looked at and folded at once: as many as there are processors, of small ones one more.

One of them waits for its sender, or for the interpreter, while the others have the processors. More take memory and
gain nothing. So a session waits for a lane, in the order of coming, and keeps it until nobody needs its body in
memory. Nobody waits for somebody else's slowness: a lane counts as taken for ``LANE_SECONDS``, and
for as long beyond it as its bytes take at ``LANE_RATE``; and whoever waits goes in without one where all lanes together
bring less than that rate for ``LANE_SECONDS``. A body that is complete brings nothing, but what it waits for is the
server's work: it counts as if it came at that rate once more.
"""

import os
import threading
from collections import deque
from typing import Final

from flserver.clock import monotonic
from flserver.errors import ConnectionLost

LANE_SECONDS = 0.5
LANE_RATE: Final = 64 * 2**20  # bytes a second: less than one processor takes, as much as half of a usual line brings


class Lane:
    """One body's. ``arrived`` are its bytes so far; it is ``complete`` since then (monotonic)."""

    def __init__(self) -> None:
        self.entered = monotonic()
        self.arrived = 0
        self.complete: float | None = None

    @property
    def expires(self) -> float:
        """When (monotonic) it is free again, whatever its holder does."""
        return self.entered + LANE_SECONDS + self.arrived / LANE_RATE

    def done(self, now: float) -> float:
        """Its bytes so far, and those of them that count as worked on."""
        worked = 0.0 if self.complete is None else (now - self.complete) * LANE_RATE
        return self.arrived + max(0.0, min(worked, self.arrived))


class Lanes:
    """Hands out ``count`` lanes."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._lock = threading.Lock()  # guards everything below, but for what has arrived
        self._closed = False
        self._held: set[Lane] = set()
        self._left = 0  # bytes of those who have left
        self._waiting: deque[threading.Condition] = deque()

    def enter(self) -> Lane:
        """Wait for a lane. Raises ConnectionLost when :meth:`close` was called."""
        with self._lock:
            if self._waiting or not self._free(monotonic()):
                self._wait()
            if self._closed:
                raise ConnectionLost("the server is stopping", "other")
            lane = Lane()
            self._held.add(lane)
            return lane

    def leave(self, lane: Lane) -> None:
        """Nobody needs its body in memory any more, or it is to wait. A second call does nothing."""
        with self._lock:
            if lane in self._held:
                self._held.remove(lane)
                self._left += 2 * lane.arrived  # it has come, and it was worked on
                self._wake()

    def close(self) -> None:
        """Nobody gets a lane any more; who waits for one stops waiting."""
        with self._lock:
            self._closed = True
            for waiting in self._waiting:
                waiting.notify()

    # --- under the lock ----------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        me = threading.Condition(self._lock)
        self._waiting.append(me)
        try:
            since = monotonic()
            done = self._done(since)
            while not self._closed:
                now = monotonic()
                if self._waiting[0] is me and self._free(now):
                    return
                if now >= since + LANE_SECONDS:
                    if self._done(now) - done + 1 < LANE_RATE * (now - since):  # one: they are floats
                        return
                    since, done = now, self._done(now)
                # Only the first one has anything to gain when a lane is free again.
                ends = [lane.expires for lane in self._held if lane.expires > now] if self._waiting[0] is me else []
                me.wait(max(0.0, min(since + LANE_SECONDS, *ends) - now) if ends else since + LANE_SECONDS - now)
        finally:
            self._waiting.remove(me)
            self._wake()

    def _free(self, now: float) -> bool:
        return sum(lane.expires > now for lane in self._held) < self.count

    def _done(self, now: float) -> float:
        """A measure of the bytes that were received and worked on so far, which grows."""
        return self._left + sum(lane.done(now) for lane in self._held)

    def _wake(self) -> None:
        if self._waiting:
            self._waiting[0].notify()


def processors() -> int:
    """How many this process may use: a container, or ``taskset``, gives it fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
