"""What the ingest nodes of a run served, by their slots, counted from the events or taken over from SQL."""

from collections.abc import Iterable

from flserver import events as e
from flserver.events import words as w
from flserver.events.totals import Totals


class NodeTally:
    """By slot, of all nodes that were in it: ``connections`` that were accepted, ``bytes`` of messages, ``updates`` by
    their decision, how many nodes were ``lost``. Of the slots that this process has: whether a node is ``up``, and the
    ``open`` connections that have a row. Not thread-safe."""

    def __init__(self) -> None:
        self.connections: dict[int, int] = {}
        self.bytes: dict[tuple[int, w.Direction], int] = {}
        self.updates: dict[tuple[int, w.Decision], int] = {}
        self.lost: dict[int, int] = {}
        self.up: dict[int, bool] = {}
        self._slots: dict[str, int] = {}  # by a node's name
        self._served_in: dict[int, int] = {}  # by an open connection
        self._undecided: dict[int, int] = {}  # by an update that counts in the attempt that runs

    @property
    def open(self) -> dict[int, int]:
        """How many connections are open in each slot."""
        found = dict.fromkeys(self.up, 0)
        for slot in self._served_in.values():
            found[slot] += 1
        return found

    def restore(self, totals: Totals) -> None:
        """Count on from what SQL says; no node serves yet."""
        for slot, served in totals.nodes.items():
            self._know(slot)
            self.connections[slot], self.lost[slot] = served.connections, served.lost
            self.bytes[slot, "in"], self.bytes[slot, "out"] = served.bytes_in, served.bytes_out
            self.updates.update(((slot, decision), number) for decision, number in served.updates.items())

    def observe(self, event: e.Event) -> None:
        """Count one event, in the order of the record."""
        match event:
            case e.MessageReceived() | e.MessageSent():
                if (slot := self._served_in.get(event.connection_id)) is not None:
                    self.bytes[slot, "in" if isinstance(event, e.MessageReceived) else "out"] += event.bytes
            case e.ConnectionOpened():
                if event.node is not None and (slot := self._slots.get(event.node)) is not None:
                    self._served_in[event.connection_id] = slot
                    self.connections[slot] += 1
            case e.ConnectionClosed():
                self._served_in.pop(event.connection_id, None)
            case e.StrangersSummed():
                self._count_strangers(event)
            case e.UpdateReceived():
                if (slot := self._served_in.get(event.connection_id)) is not None:
                    self._undecided[event.update_id] = slot
                    if event.decision is not None:
                        self._decide([event.update_id], event.decision)
            case e.SuspectRejected():
                self._decide([event.update_id], "rejected")
            case e.RoundCommitted():
                self._decide(_updates_of(event), "accepted")
            case e.AttemptAborted():
                self._decide(_updates_of(event), "aborted")
            case e.NodeStarted():
                self._know(event.slot)
                self._slots[event.node], self.up[event.slot] = event.slot, True
            case e.NodeLost():
                self._decide((lost.update_id for lost in event.updates), "lost")
                if event.slot is not None:
                    self.lost[event.slot] += 1
                    self._ended(event.node)
            case e.NodeEnded():
                self._ended(event.node)

    def _know(self, slot: int) -> None:
        """Its numbers are there from now on."""
        for decision in w.DECISIONS:
            self.updates.setdefault((slot, decision), 0)
        for direction in w.DIRECTIONS:
            self.bytes.setdefault((slot, direction), 0)
        self.connections.setdefault(slot, 0)
        self.lost.setdefault(slot, 0)

    def _ended(self, node: str) -> None:
        slot = self._slots.pop(node)
        self.up[slot] = slot in self._slots.values()  # another may have come before its end was on record

    def _count_strangers(self, summed: e.StrangersSummed) -> None:
        if summed.node is not None and (slot := self._slots.get(summed.node)) is not None:
            self.connections[slot] += summed.connections
            self.bytes[slot, "in"] += summed.message_bytes
            self.bytes[slot, "out"] += summed.bytes_out

    def _decide(self, update_ids: Iterable[int], decision: w.Decision) -> None:
        for update_id in update_ids:
            if (slot := self._undecided.pop(update_id, None)) is not None:
                self.updates[slot, decision] += 1


def _updates_of(ended: e.RoundCommitted | e.AttemptAborted) -> list[int]:
    return [outcome.update_id for outcome in ended.outcomes if outcome.update_id is not None]
