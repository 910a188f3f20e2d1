"""Who asked for the record to be durable, and is answered when it is."""

import queue
import threading

from flserver.errors import StoreError
from flserver.events.bus import Recorder
from flserver.ingest.asking import failure_of
from flserver.ingest.outbox import Outbox
from flserver.ingest.questions import Done, Failure


class Flusher:
    """Waits for the record where nodes asked for it: all that asked meanwhile have one transaction together."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._asked: queue.SimpleQueue[tuple[Outbox, int] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards that the thread is started once
        self._thread = threading.Thread(target=self._run, name="ingest-flush")

    def ask(self, outbox: Outbox, number: int) -> None:
        """Answer that question of whoever has this outbox when all that was emitted so far is durable."""
        self._asked.put((outbox, number))
        with self._lock:
            if self._thread.ident is None:
                self._thread.start()

    def close(self) -> None:
        """Nobody asks any more."""
        self._asked.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        over = False
        while not over:
            asked = [self._asked.get()]
            while not self._asked.empty():
                asked.append(self._asked.get())
            over = None in asked
            answer: Done | Failure = Done()
            try:
                self._recorder.flush()
            except StoreError as error:
                answer = failure_of(error)
            for one in asked:
                if one is not None:
                    outbox, number = one
                    outbox.put(answer, number)
