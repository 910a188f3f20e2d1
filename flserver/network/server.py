"""The accept loop and the registry of sessions: every thread is registered before it starts and joined by us."""

import logging
import socket
import threading
from contextlib import suppress
from itertools import count

from flserver.clock import Deadline
from flserver.errors import StoreError
from flserver.network.correspondence import Correspondence
from flserver.network.listener import Listener
from flserver.network.session import Desk, Session

logger = logging.getLogger(__name__)

ACCEPT_PAUSE = 0.1  # seconds without a free descriptor before accepting is tried again


class Server:
    """Accepts connections and runs a session on a thread for each."""

    def __init__(self, listener: Listener, desk: Desk, connection_ids: "count[int]", most: int) -> None:
        """``most`` connections are served at once."""
        self._most = most
        self._listener = listener
        self._desk = desk
        self._connection_ids = connection_ids
        self._lock = threading.Lock()  # guards the three below
        self._threads: dict[Session, threading.Thread] = {}
        self._ended: list[threading.Thread] = []
        self._cut: set[Session] = set()
        self._stopped = threading.Event()
        self._acceptor = threading.Thread(target=self._accept_loop, name="accept")

    def start(self) -> None:
        self._acceptor.start()

    def _accept_loop(self) -> None:
        while not self._stopped.is_set():
            try:
                sock, address = self._listener.socket.accept()
            except OSError as error:
                if self._stopped.is_set():
                    return
                # Out of descriptors, or a peer that gave up between SYN and accept: neither ends the server.
                logger.warning("accept failed: %s", error)
                self._stopped.wait(ACCEPT_PAUSE)
                continue
            self._reap()
            self._serve(sock, address)

    def _serve(self, sock: socket.socket, address: tuple[str, int]) -> None:
        connection_id = next(self._connection_ids)
        try:
            self._make_room()
            session = Session(sock, address, connection_id, self._desk)
            self._start(session)
        except (OSError, RuntimeError) as error:  # no place, no descriptor, no thread: this peer's loss alone
            logger.warning("no session for %s: %s", address[0], error)
            record = Correspondence(self._desk.bus, connection_id, self._desk.message_ids)
            with suppress(StoreError):
                record.opened(address[0], address[1])
                record.closed(f"not served: {error}")
            sock.close()

    def _make_room(self) -> None:
        """Where the server is full, the oldest connection that has said nothing yet goes.

        Raises OSError where all have said something.
        """
        with self._lock:
            if len(self._threads) < self._most:
                return
            silent = next((session for session in self._threads if session.silent and session not in self._cut), None)
            if silent is not None:
                self._cut.add(silent)
        if silent is None:
            raise OSError(f"{self._most} connections are open")
        silent.cut()

    def _start(self, session: Session) -> None:
        thread = threading.Thread(target=self._run, args=(session,), name=f"session-{session.connection_id}")
        with self._lock:
            self._threads[session] = thread
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                del self._threads[session]
            session.discard()
            raise

    def _run(self, session: Session) -> None:
        try:
            session.run()
        except Exception:
            # A defect of ours in one session must not be silent, nor cost the others anything.
            logger.exception("session %d failed", session.connection_id)
        finally:
            with self._lock:
                self._ended.append(self._threads.pop(session))
                self._cut.discard(session)

    def _reap(self) -> None:
        with self._lock:
            ended, self._ended = self._ended, []
        for thread in ended:
            thread.join()

    def stop_accepting(self) -> None:
        """No new connections from here on."""
        self._stopped.set()
        self._listener.close()
        self._acceptor.join()

    def close(self, grace: float) -> None:
        """Give the sessions ``grace`` seconds to say goodbye, then cut those that are left, and join all."""
        deadline = Deadline.after(grace)
        for thread in self._running():
            thread.join(deadline.remaining())
        self._desk.memory.close()
        with self._lock:
            left = list(self._threads)
        for session in left:
            session.cut()
        for thread in self._running():
            thread.join()
        self._reap()

    def _running(self) -> list[threading.Thread]:
        with self._lock:
            return list(self._threads.values())
