"""The recorder of a node: events go in their order to the coordinator's, as far as there is room for them there."""

import threading

from flserver.errors import StoreError
from flserver.events import Event
from flserver.ingest.asking import LINE_LOST, Asking
from flserver.ingest.questions import Done, Flush
from flserver.ingest.told import Emitted
from flserver.store.backlog import Backlog
from flserver.store.payloads import to_payload


class NodeRecorder:
    """Implements ``events.bus.Recorder``. What the coordinator has not taken yet is bounded as its own queue is."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._lock = threading.Lock()  # guards the three below; events are put into the outbox in its order
        self._room = {first: threading.Condition(self._lock) for first in (True, False)}
        self._backlog = Backlog()
        self._failure: str | None = None

    @property
    def crowded(self) -> bool:
        """Whether who does not go first would have to wait."""
        with self._lock:
            return not self._backlog.room(first=False)

    def emit(self, event: Event, *, first: bool = True, payload: str | None = None) -> None:
        """Send it to the record, once there is room for it. Raises StoreError where there is no record any more."""
        payload = to_payload(event) if payload is None else payload
        with self._lock:
            while self._failure is None and not self._backlog.room(first):
                self._room[first].wait()
            self._require()
            self._backlog.add(len(payload))
            self._asking.tell(Emitted(type(event).__name__, payload, first))

    def flush(self) -> None:
        """Wait until all that was emitted here is durable. Raises StoreError."""
        self._require()
        self._asking.ask(Flush(), Done)

    def taken(self, events: int, size: int) -> None:
        """The coordinator took so many, of so many characters."""
        with self._lock:
            self._backlog.take_off(events, size)
            for first, room in self._room.items():
                room.notify(self._backlog.room(first))

    def fail(self, why: str = LINE_LOST) -> None:
        """There is no record any more."""
        with self._lock:
            self._failure = self._failure or why
            for room in self._room.values():
                room.notify_all()

    def _require(self) -> None:
        if self._failure is not None:
            raise StoreError(self._failure)
