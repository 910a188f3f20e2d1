"""The accept loop and the registry of sessions: every thread is registered before it starts and joined by us."""

import logging
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

from flserver.clock import Deadline
from flserver.errors import Refused, StoreError
from flserver.identity.peer import Peer
from flserver.network.context import Context
from flserver.network.listener import Listener
from flserver.network.record import ConnectionRecord
from flserver.network.session import Session
from flserver.wire.proxy_header import plain_host

logger = logging.getLogger(__name__)

ACCEPT_PAUSE = 0.1  # seconds without a free descriptor before accepting is tried again
CUT_IN_TURN = 64  # of as many connections one is cut at a time: a look at all of them pays for more than one newcomer
MADE_ROOM = "made room for another connection before its first message was whole"


@dataclass(frozen=True)
class Capacity:
    """How many connections are served at once, and how many of one address."""

    in_all: int
    an_address: int


class Server:
    """Accepts connections and runs a session on a thread for each."""

    def __init__(self, listener: Listener, context: Context, connection_ids: "count[int]", capacity: Capacity) -> None:
        self._capacity = capacity
        self._listener = listener
        self._context = context
        self._connection_ids = connection_ids
        self._lock = threading.Lock()  # guards the four below
        self._threads: dict[Session, threading.Thread] = {}
        self._ended: list[threading.Thread] = []
        self._cut: set[Session] = set()
        self._told: dict[Session, None] = {}  # refused and told so, the first ones first: they have no place any more
        self._stopped = threading.Event()
        self._acceptor = threading.Thread(target=self._accept_loop, name="accept")

    def start(self) -> None:
        """Accept connections from here on."""
        self._acceptor.start()

    @property
    def accepting(self) -> bool:
        """False when the thread that accepts has ended."""
        return self._acceptor.ident is None or self._acceptor.is_alive()

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
            self._serve(sock, Peer(host=plain_host(address[0]), port=address[1]))

    def _serve(self, sock: socket.socket, peer: Peer) -> None:
        connection_id = next(self._connection_ids)
        try:
            self._make_room_in_all()
            session = Session(sock, peer, connection_id, self._context, self._take_place, self._give_place)
            self._start(session)
        except (OSError, RuntimeError, Refused) as error:  # no place, no descriptor, no thread: this peer's loss alone
            logger.warning("no session for %s: %s", peer.host, error)
            record = ConnectionRecord(self._context.recorder, connection_id, self._context.message_ids)
            with suppress(StoreError):
                record.opened(peer)
                record.closed(f"not served: {error}")
            sock.close()

    # --- who makes room ----------------------------------------------------------------------------------------------

    def _make_room_in_all(self) -> None:
        """Raises Refused where the server is full of connections that have said something."""
        most = self._capacity.in_all
        self._dismiss()
        with self._lock:
            if len(self._threads) - len(self._told) < most:
                return
        self._cut_some(lambda sessions: sessions, most, f"{most} connections are open")

    def _take_place(self, session: Session) -> None:
        """Called by a session when it knows the address of its peer. Raises Refused as above."""
        host, most = session.peer.host, self._capacity.an_address

        def of_this_address(sessions: Iterable[Session]) -> list[Session]:
            return [other for other in sessions if other.peer.host == host and other is not session]

        with self._lock:
            if len(self._threads) <= most or len(of_this_address(self._threads.keys() - self._told.keys())) < most:
                return
        self._cut_some(of_this_address, most, f"not served: {most} connections are open from {host}")

    def _give_place(self, session: Session) -> None:
        """Called by a session whose peer was refused and told so."""
        with self._lock:
            self._told[session] = None

    def _dismiss(self) -> None:
        """End connections that were refused and told so, the first ones first, where more are open than have a place:
        they take none, but a thread and a descriptor each."""
        with self._lock:
            over = len(self._threads) + 1 - self._capacity.in_all
            chosen = [session for session in self._told if session not in self._cut][: max(0, over)]
            self._cut.update(chosen)
        for session in chosen:
            session.cut(MADE_ROOM)

    def _cut_some(self, among: Callable[[Iterable[Session]], Iterable[Session]], most: int, full: str) -> None:
        """Cut connections whose first message is not whole: one, and more where many are served, so that a flood does
        not pay for each of its newcomers with a look at all.

        Strangers first; then those of the address that has the most of them; those that sent least; the oldest. So
        neither a flood from elsewhere nor one from an honest trainer's own address reaches its upload. Raises Refused,
        for the newcomer, where there is none.
        """
        known = self._context.exchange.registered_hosts()
        with self._lock:
            silent = [session for session in among(self._threads) if session.silent and session not in self._cut]
            of_host = Counter(session.peer.host for session in silent)
            silent.sort(key=lambda s: (s.peer.host in known, -of_host[s.peer.host], s.first_bytes, s.connection_id))
            chosen = silent[: max(1, most // CUT_IN_TURN)]
            self._cut.update(chosen)
        if not chosen:
            raise Refused(full)
        for session in chosen:
            session.cut(MADE_ROOM)

    # --- threads -----------------------------------------------------------------------------------------------------

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
                self._told.pop(session, None)

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
        self._context.memory.close()
        self._context.decoding.close()
        with self._lock:
            left = list(self._threads)
        for session in left:
            session.cut("the server stopped")
        for thread in self._running():
            thread.join()
        self._reap()

    def _running(self) -> list[threading.Thread]:
        with self._lock:
            return list(self._threads.values())
