"""The threads that serve sessions, one session at a time: each is registered before it starts, and joined by us.

One session is at work at a time, and others wait for it, address by address (``lines.Line``): all of them want the
interpreter, and each thread more that does costs every other one changes of threads whenever it calls the system. A
session is at work until it waits for its peer or begins something long, where it says that it leaves
(``Workers.leave``), or for ``WORK_SECONDS``: so nobody waits for somebody else's slowness. Then it goes on beside the
others. While somebody has the interpreter for long, who reads what is not known, all of them are at work at once: each
waits for the interpreter then, and one after another they would wait as often as there are sessions.

A thread whose session is over takes the next one, or waits for it: one of its own for each is started and waited for,
and at its end Python walks over the locks of all others.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from flserver.clock import monotonic
from flserver.network.lines import Line, Waiting

KEPT = 4  # threads that wait for a session, at most: as many as are at work at once; each keeps some 100 kB
KEPT_SECONDS = 2.0  # that one waits: the time of some small rounds
WORK_SECONDS = 0.02  # that a session is at work, before another one need not wait for it: some ten small uploads

Session = TypeVar("Session", bound=Waiting)


class Workers(Generic[Session]):
    """Calls ``serve`` with each session, and again with one that is resumed, which raises nothing; a thread is called
    ``name`` of it meanwhile. While ``busy`` they do not wait for each other."""

    def __init__(
        self, serve: Callable[[Session], None], name: Callable[[Session], str], busy: Callable[[], bool]
    ) -> None:
        self._serve, self._name, self._busy = serve, name, busy
        self._lock = threading.Lock()  # guards the seven below
        self._threads: set[threading.Thread] = set()
        self._ended: list[threading.Thread] = []
        self._idle = 0  # threads that wait, and are not yet given a session
        self._closed = False
        self._at_work: tuple[Session, float] | None = None  # since when (monotonic)
        self._resumed: deque[Session] = deque()
        self._waiting: Line[Session] = Line()
        self._given: queue.SimpleQueue[Session | None] = queue.SimpleQueue()

    def give(self, session: Session) -> None:
        """Let a thread serve it, when it is its turn. Raises RuntimeError where none can be started: nobody does."""
        with self._lock:
            at_once = self._busy()
            if not at_once:
                if self._at_work is not None or self._waiting or self._resumed:
                    self._waiting.put(session)
                    return
                self._at_work = session, monotonic()
        self._begin(session)
        if at_once:
            self._begin_next()

    def resume(self, session: Session) -> None:
        """Let a thread serve a session again, which was left before its end, before others begin."""
        with self._lock:
            self._resumed.append(session)
        self._begin_next()

    def leave(self, session: Session) -> None:
        """The session waits for something: another one may work. A second call does nothing."""
        if self._is_at_work(session):
            with self._lock:
                self._end_work(session)
            self._begin_next()

    def _is_at_work(self, session: Session) -> bool:
        return (work := self._at_work) is not None and work[0] is session

    def _end_work(self, session: Session) -> None:
        if self._is_at_work(session):
            self._at_work = None

    def overtake(self) -> bool:
        """Nobody waits any longer for one that is at work for long. Whether anybody waits."""
        if not self._waiting and not self._resumed:
            return False
        with self._lock:
            if self._at_work is not None and monotonic() - self._at_work[1] >= WORK_SECONDS:
                self._at_work = None
        self._begin_next()
        return bool(self._waiting) or bool(self._resumed)

    def _begin_next(self) -> None:
        """Let threads serve those whose turn it is."""
        while True:
            with self._lock:
                session = self._next()
            if session is None:
                return
            try:
                self._begin(session)
            except RuntimeError:  # there is no thread for it now: it waits on
                with self._lock:
                    self._waiting.put(session)
                return

    def _next(self) -> Session | None:
        """The one whose turn it is, if it is somebody's: at work from here on. Under the lock."""
        if not self._waiting and not self._resumed:
            return None
        busy = self._busy()
        if not busy and self._at_work is not None:
            return None
        session = self._resumed.popleft() if self._resumed else self._waiting.take()
        if not busy:
            self._at_work = session, monotonic()
        return session

    def _begin(self, session: Session) -> None:
        """Let a thread serve it, which is at work. Raises RuntimeError where none can be started."""
        with self._lock:
            if self._idle:
                self._idle -= 1
                self._given.put(session)
                return
            thread = threading.Thread(target=self._run, args=(session,), name=self._name(session))
            self._threads.add(thread)
            try:
                thread.start()  # under the lock: who closes joins those that are registered
            except RuntimeError:
                self._threads.discard(thread)
                self._end_work(session)
                raise

    def _run(self, first: Session) -> None:
        thread = threading.current_thread()
        given: list[Session | None] = [first]
        del first  # what a session holds is not kept by a thread that waits for another
        while (session := given.pop()) is not None:
            thread.name = self._name(session)
            self._serve(session)
            with self._lock:
                self._end_work(session)
                if (session := self._next()) is not None:
                    given.append(session)
                    continue
                thread.name = "session-none"
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
            self._idle = 0  # none of them takes a session any more
        while True:
            with self._lock:  # those who wait for their turn may still be given a thread
                threads = list(self._threads)
            if not threads:
                break
            for thread in threads:
                thread.join()
        self.reap()
