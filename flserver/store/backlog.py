"""What waits for its transaction, and who may add to it: counts alone, the writer guards them.

An eighth of the room is for everybody; the rest is for what rounds rest on, which so never waits behind more than that
eighth of others' events.
"""

from dataclasses import dataclass

MOST_EVENTS = 8192
"""Events that wait for their transaction, or are in it; then whoever brings more waits."""
MOST_BYTES = 16 << 20
"""The same in bytes of their payloads. The one that reaches the bound is let in, however long it is."""
OTHERS_PART = 8
"""Of as many events and bytes, one is for who does not go first: two transactions' worth of events."""


@dataclass
class Backlog:
    """How many events are emitted and not yet committed, and the bytes of their payloads."""

    events: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        """One event with a payload of ``size`` bytes waits."""
        self.events += 1
        self.bytes += size

    def take_off(self, events: int, size: int) -> None:
        """So many were committed."""
        self.events -= events
        self.bytes -= size

    def room(self, first: bool) -> int:
        """How many more events may be added by who goes ``first``, or by the others."""
        part = 1 if first else OTHERS_PART
        return max(0, MOST_EVENTS // part - self.events) if self.bytes < MOST_BYTES // part else 0
