"""The recorder: one thread and one connection write everything, many events a transaction.

An event that nobody waits for may linger for companions, so that a burst costs one fsync; ``flush`` cuts that short.
What waits is bounded (``backlog``): who brings more waits too.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from flserver.clock import monotonic
from flserver.errors import StoreError
from flserver.events import Event
from flserver.settings.places import Place
from flserver.store.appending import Appending, Head, Signs, signs_nothing
from flserver.store.backlog import Backlog
from flserver.store.database import Lock, at
from flserver.store.payloads import to_payload

LINGER = 0.1
"""Seconds that an event waits for companions: with the commit itself, below the 0.2 s of promise 2. Each halving of it
costs a round of trainers that answer one after the other as many more commits."""
MAX_BATCH = 500
"""Events in one transaction: what waits behind it does not wait long."""

logger = logging.getLogger(__name__)


class _Entry(NamedTuple):
    """``due`` is when (monotonic) it has waited for companions long enough."""

    event: Event
    payload: str
    due: float


class Writer:
    """Implements ``events.bus.Recorder``: the events of one process's work on one run."""

    def __init__(
        self,
        place: Place,
        *,
        run_id: str,
        process_id: int,
        patience: float = 60.0,
        sign: Signs = signs_nothing,
        lock: Lock | None = None,
    ) -> None:
        """``patience`` is how many seconds a database is waited for that another program has locked, or that cannot be
        reached; ``sign`` signs heads of the record. ``lock`` is what keeps others away."""
        self._database = at(place)
        self._record = self._database.recording(patience, lock)
        self._chain = Appending(run_id, process_id, sign)
        self._on_committed: Callable[[Sequence[Event]], None] = lambda events: None
        self._on_commit_seconds: Callable[[float], None] = lambda seconds: None
        self._on_failure: Callable[[BaseException], None] = lambda error: None
        self._on_head: Callable[[int, str], None] = lambda sequence, digest: None
        self._thread = threading.Thread(target=self._run, name="store-writer")
        # Guards everything below. The conditions share it: the writer sleeps on _work, those who flush on _durable,
        # and on _room those who wait for it, who go first and others.
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._durable = threading.Condition(self._lock)
        self._room = {first: threading.Condition(self._lock) for first in (True, False)}
        self._queue: deque[_Entry | None] = deque()  # None is the sentinel that ends the thread
        self._appended = 0
        self._taken = 0
        self._committed = 0
        self._backlog = Backlog()
        self._wanted = 0  # a flush waits for as many events
        self._closing = False
        self._failure: BaseException | None = None
        self._head = Head()

    @property
    def queue_length(self) -> int:
        """Events emitted that are not yet durable and seen by those who watch."""
        with self._lock:
            return self._backlog.events

    @property
    def alive(self) -> bool:
        """Whether events are being written."""
        with self._lock:
            return self._thread.is_alive() and self._failure is None

    @property
    def sequence(self) -> int:
        """The last durable event's number in the record; 0 where there is none."""
        return self.head[0]

    @property
    def last_digest(self) -> str:
        """The chain's head: the last durable event's digest."""
        return self.head[1]

    @property
    def head(self) -> tuple[int, str]:
        """``sequence`` and ``last_digest``, of one moment."""
        with self._lock:
            return self._head.tree.size, self._head.digest

    def start(
        self,
        *,
        on_committed: Callable[[Sequence[Event]], None],
        on_commit_seconds: Callable[[float], None],
        on_failure: Callable[[BaseException], None],
        on_head: Callable[[int, str], None] = lambda sequence, digest: None,
    ) -> None:
        """Open the database, which is at head, and start the thread.

        ``on_committed`` gets the events of each transaction after it, in order; ``on_commit_seconds`` its duration;
        ``on_failure`` what broke the writer, once; ``on_head``, after each, the last event's number and digest. All are
        called on the thread and must be quick.

        Raises StoreError where the database cannot be opened.
        """
        self._on_committed, self._on_commit_seconds, self._on_failure = on_committed, on_commit_seconds, on_failure
        self._on_head = on_head
        self._head = self._record.open(self._pause)
        self._thread.start()

    @property
    def crowded(self) -> bool:
        """Whether who does not go first would have to wait: for whoever asks for each event, so it takes no lock."""
        return not self._backlog.room(first=False)

    def emit(self, event: Event, *, first: bool = True, payload: str | None = None) -> None:
        """Queue ``event``, once there is room for it.

        Raises StoreError once the writer has failed or closed, TypeError for what is not JSON.
        """
        payload = to_payload(event) if payload is None else payload
        with self._lock:
            if self._closing or self._failure is not None or not self._backlog.room(first):
                self._await_room(first)
            self._queue.append(_Entry(event, payload, monotonic() + LINGER))
            self._appended += 1
            self._backlog.add(len(payload))
            # The writer, once awake, looks again by itself when the first event's linger is over.
            if len(self._queue) in (1, MAX_BATCH):
                self._work.notify()

    def _await_room(self, first: bool) -> None:
        """Wait, under the lock, until there is room for one more. Raises StoreError."""
        while not self._ended and not self._backlog.room(first):
            self._wanted = self._appended  # what keeps others out does not linger
            self._work.notify()
            self._room[first].wait()
        self._require_open()

    def flush(self) -> None:
        """Wait until all events emitted so far are durable, and ``on_committed`` has had them.

        Raises StoreError where the writer fails before.
        """
        with self._lock:
            target = self._appended
            if self._committed >= target:
                return
            self._wanted = max(self._wanted, target)
            self._work.notify()
            self._durable.wait_for(lambda: self._committed >= target or self._failure is not None)
            if self._committed < target:
                self._require_healthy()

    def close(self) -> None:
        """Write what is queued, leave one file in ``journal_mode=DELETE``, end the thread. May be called again."""
        with self._lock:
            if not self._closing:
                self._closing = True
                self._queue.append(None)
                self._wanted = self._appended
                self._work.notify()
                for room in self._room.values():
                    room.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def _ended(self) -> bool:
        return self._closing or self._failure is not None

    def _require_open(self) -> None:
        self._require_healthy()
        if self._closing:
            raise StoreError("the record is closed")

    def _require_healthy(self) -> None:
        if self._failure is not None:
            said = self._database.what_failed(self._failure)
            raise StoreError(f"the record cannot be written: {said}") from self._failure

    # --- the writer's thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while batch := self._take():
                self._write(batch)
            self._record.leave()
        except Exception as error:
            self._record.leave_as_it_is()
            with self._lock:
                self._failure = error
                for waiting in (self._durable, *self._room.values()):
                    waiting.notify_all()
            self._on_failure(error)

    def _take(self) -> list[_Entry]:
        """The next batch, once it is due; empty when the sentinel is all that is left."""
        with self._lock:
            while not self._work.wait_for(lambda: bool(self._queue), self._record.beat):
                self._lock.release()
                try:
                    self._record.keep()
                finally:
                    self._lock.acquire()
            first = self._queue[0]
            if first is not None:
                self._work.wait_for(self._due, max(0.0, first.due - monotonic()))
            batch: list[_Entry] = []
            while self._queue and len(batch) < MAX_BATCH and (entry := self._queue[0]) is not None:
                self._queue.popleft()
                batch.append(entry)
            self._taken += len(batch)
            return batch

    def _due(self) -> bool:
        return self._wanted > self._taken or len(self._queue) >= MAX_BATCH

    def _write(self, batch: Sequence[_Entry]) -> None:
        entries, started = [(entry.event, entry.payload) for entry in batch], monotonic()
        head, events = self._record.commit(lambda rows, head: self._chain.append(rows, head, entries))
        seconds = monotonic() - started
        with self._lock:
            self._head = head
        self._on_head(head.tree.size, head.digest)
        self._on_commit_seconds(seconds)
        self._on_committed(events)
        # Last: who returns from a flush finds that those who watch have seen it too.
        with self._lock:
            self._committed += len(batch)
            self._backlog.take_off(len(batch), sum(len(entry.payload) for entry in batch))
            self._durable.notify_all()
            for first, room in self._room.items():  # who finds none after all waits for the next transaction
                room.notify(self._backlog.room(first))

    def _pause(self, seconds: float) -> None:
        """Wait for something that gives no sign when it comes."""
        with self._lock:
            self._work.wait(seconds)
