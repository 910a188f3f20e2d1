"""The threads that serve sessions, one session at a time: each is registered before it starts, and joined by us.

One whose session is over waits for another: a thread of its own for each is started and waited for, and at its end
Python walks over the locks of all others.
"""

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

KEPT = 4  # threads that wait for a session, at most: as many as are at work at once; each keeps some 100 kB
KEPT_SECONDS = 2.0  # that one waits: the time of some small rounds

Session = TypeVar("Session")


class Workers(Generic[Session]):
    """Calls ``serve`` with each session, which raises nothing; a thread is called ``name`` of it meanwhile."""

    def __init__(self, serve: Callable[[Session], None], name: Callable[[Session], str]) -> None:
        self._serve, self._name = serve, name
        self._lock = threading.Lock()  # guards the four below
        self._threads: set[threading.Thread] = set()
        self._ended: list[threading.Thread] = []
        self._idle = 0  # threads that wait, and are not yet given a session
        self._closed = False
        self._given: queue.SimpleQueue[Session | None] = queue.SimpleQueue()

    def give(self, session: Session) -> None:
        """Let a thread serve it. Raises RuntimeError where none can be started: then nobody does."""
        with self._lock:
            if self._idle:
                self._idle -= 1
                self._given.put(session)
                return
            thread = threading.Thread(target=self._run, args=(session,), name=self._name(session))
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self._threads.discard(thread)
            raise

    def _run(self, first: Session) -> None:
        thread = threading.current_thread()
        given: list[Session | None] = [first]
        del first  # what a session holds is not kept by a thread that waits for another
        while (session := given.pop()) is not None:
            thread.name = self._name(session)
            self._serve(session)
            del session
            thread.name = "session-none"
            with self._lock:
                if self._closed or self._idle >= KEPT:
                    break
                self._idle += 1
            if not self._await(given):
                break
        with self._lock:
            self._threads.discard(thread)
            self._ended.append(thread)

    def _await(self, given: list[Session | None]) -> bool:
        """Wait for another session, or for the end, which is None; False where none came in time."""
        while True:
            try:
                given.append(self._given.get(timeout=KEPT_SECONDS))
                return True
            except queue.Empty:
                with self._lock:
                    if self._idle:  # else one is on its way to each that waits
                        self._idle -= 1
                        return False

    def reap(self) -> None:
        """Join those that have ended."""
        if self._ended:
            with self._lock:
                ended, self._ended = self._ended, []
            for thread in ended:
                thread.join()

    def close(self) -> None:
        """No session comes any more: wait for those that are served, and join all."""
        with self._lock:
            self._closed = True
            for _ in range(self._idle):
                self._given.put(None)
            threads = list(self._threads)
        for thread in threads:
            thread.join()
        self.reap()
