"""The accept loop and the registry of sessions: every thread is registered before it starts and joined by us."""

import logging
import socket
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from functools import partial

from flserver.errors import Refused, StartError, StoreError
from flserver.identity.peer import Peer
from flserver.network.capacity import Capacity, Clients, who_goes
from flserver.network.context import Context
from flserver.network.going_on import InheritedSession
from flserver.network.inherited import InheritedTrainer
from flserver.network.listener import Listener
from flserver.network.record import ConnectionRecord
from flserver.network.session import Session
from flserver.network.transport import HANDED_DOWN, tune
from flserver.network.workers import WORK_SECONDS, Workers
from flserver.rounds.places import by_address
from flserver.wire.proxy_header import plain_host

logger = logging.getLogger(__name__)

ACCEPT_PAUSE = 0.1  # seconds without a free descriptor before accepting is tried again
CUT_IN_TURN = 64  # of as many connections one is cut at a time: a look at all of them pays for more than one newcomer
LOOK_SECONDS = 50e-6  # a connection, before all of them are looked at: a tenth of the time at most goes into that
ANSWER_SECONDS = 60.0  # only a bound, at the end: who is asked what an upload is answers, or is gone
MADE_ROOM = "made room for another connection before its first message was whole"
MADE_PLACE = "made room for the upload of a client"


class Server:
    """Accepts connections and runs a session on a thread for each."""

    def __init__(self, listener: Listener, context: Context, connection_ids: Iterator[int], capacity: Capacity) -> None:
        self._capacity = capacity
        self._listener = listener
        self._context = context
        self._connection_ids = connection_ids
        self._workers = Workers(
            self._run, lambda session: f"session-{session.connection_id}", lambda: context.decoding.busy
        )
        self._lock = threading.Lock()  # guards the four below
        self._served: dict[Session, bool] = {}  # whether it has taken its place among those of its address
        self._cut: set[Session] = set()
        self._told: dict[Session, None] = {}  # refused and told so, the first ones first: they have no place any more
        self._one_awaited = False
        self._one_ended = threading.Condition(self._lock)  # notified where that is awaited
        self._inherited: Collection[InheritedTrainer] = ()
        self._stopped = threading.Event()
        self._acceptor = threading.Thread(target=self._accept_loop, name="accept")

    def start(self, inherited: Collection[InheritedTrainer] = ()) -> None:
        """Accept connections from here on, and go on with ``inherited`` ones first. Raises StartError."""
        self._inherited = inherited
        if HANDED_DOWN:
            tune(self._listener.socket, self._context.limits.peer_timeout)
        self._context.strangers.start()
        try:
            self._acceptor.start()
        except RuntimeError as error:
            self._context.strangers.close()
            raise StartError(f"no thread can be started that lets trainers in: {error}") from error

    @property
    def open_connections(self) -> int:
        """How many connections are being served."""
        with self._lock:
            return len(self._served)

    @property
    def accepting(self) -> bool:
        """False when the thread that accepts has ended."""
        return self._acceptor.ident is None or self._acceptor.is_alive()

    def _go_on(self, trainer: InheritedTrainer) -> None:
        try:
            number = next(self._connection_ids)
            self._start(InheritedSession(trainer, number, self._context, self._take_place, self._workers.leave))
        except (OSError, RuntimeError, StoreError) as error:
            logger.warning("no session for client %s any more: %s", trainer.metadata.client_id, error)
            trainer.close()

    def _accept_loop(self) -> None:
        for trainer in self._inherited:
            self._go_on(trainer)
        while self._await_descriptors():
            while self._workers.overtake() and not self._listener.await_connection(WORK_SECONDS):
                pass  # no session waits long for those that are at work
            try:
                accepted = self._listener.accept()
            except OSError as error:
                if self._stopped.is_set():
                    return
                # Out of descriptors, or a peer that gave up between SYN and accept: neither ends the server.
                logger.warning("accept failed: %s", error)
                self._stopped.wait(ACCEPT_PAUSE)
                continue
            self._workers.reap()
            if accepted is not None:
                sock, address = accepted
                self._serve(sock, Peer(host=plain_host(address[0]), port=address[1]))
            elif self._listener.shared:  # who came is another's, or nobody came
                self._await_connection()

    def _serve(self, sock: socket.socket, peer: Peer) -> None:
        try:
            connection_id = next(self._connection_ids)
        except StoreError:  # there is no record any more, and the server is stopping because of it
            sock.close()
            return
        try:
            self._make_room_in_all(peer)
            session = Session(
                sock, peer, connection_id, self._context, self._take_place, self._give_place, self._workers.leave
            )
            self._start(session)
        except (OSError, RuntimeError, Refused) as error:  # no place, no descriptor, no thread: this peer's loss alone
            logger.warning("no session for %s: %s", peer.host, error)
            context = self._context
            record = ConnectionRecord(context.recorder, context.strangers, connection_id, context.message_ids)
            with suppress(StoreError):
                record.opened(peer)
                record.closed(f"not served: {error}", "not_served")
            sock.close()

    # --- who makes room ----------------------------------------------------------------------------------------------

    def _await_descriptors(self) -> bool:
        """Wait until there are descriptors for one more connection; False where accepting is over.

        Meanwhile who comes waits in the listener's backlog and is not refused. Where nobody ends by itself, strangers
        make room.
        """
        most = self._capacity.descriptors_for
        if len(self._served) < most:
            return not self._stopped.is_set()
        self._await_connection()
        while not self._await_end(lambda: len(self._served) < most or self._stopped.is_set(), most * LOOK_SECONDS):
            self._workers.overtake()
            self._dismiss()
            with suppress(Refused):  # nobody can go: trainers' uploads, which end
                self._cut_some(list, most, lambda peer: False, "")
        return not self._stopped.is_set()

    def _await_connection(self) -> None:
        """Wait until one can be accepted; meanwhile no session waits long for those that are at work."""
        while not self._listener.await_connection(WORK_SECONDS if self._workers.overtake() else None):
            pass

    def _await_end(self, enough: Callable[[], bool], seconds: float) -> bool:
        """Wait until so many sessions have ended that it is ``enough``; False where that took too long."""
        with self._lock:
            self._one_awaited = True
            try:
                return self._one_ended.wait_for(enough, seconds)
            finally:
                self._one_awaited = False

    def _make_room_in_all(self, newcomer: Peer) -> None:
        """Raises Refused where the server is full of connections that do not make room."""
        most = self._capacity.in_all
        if self._told:
            self._dismiss()
        with self._lock:
            if len(self._served) - len(self._told) < most:
                return
            hosts = Counter(session.peer.host for session in self._served)
        # What is known of it so far is the address that it comes from, which may be a forwarder's.
        near = lambda peer: (peer.proxy_host or peer.host) == newcomer.host  # noqa: E731
        self._cut_some(list, most, near, f"{most} connections are open: {by_address(hosts)}")

    def _take_place(self, session: Session) -> None:
        """Called by a session when it knows the address of its peer. Raises Refused as above.

        Sessions come here in any order, and who has not been here yet makes no room for another: so no two of them do
        for each other. Who was cut before its turn came is about to see that, and needs no place.
        """
        host, most = session.peer.host, self._capacity.an_address
        with self._lock:
            if session in self._cut:
                return
            if len(self._served) <= most or len(self._placed(host, self._served.keys() - self._told.keys())) < most:
                self._served[session] = True
                return
        full = f"not served: {most} connections are open from {host}"
        self._cut_some(partial(self._placed, host), most, lambda peer: peer.host == host, full, session)

    def _placed(self, host: str, sessions: Iterable[Session]) -> list[Session]:
        """Those of an address that have taken their place and were not cut. Under the lock."""
        placed = (other for other in sessions if self._served[other] and other not in self._cut)
        return [other for other in placed if other.peer.host == host]

    def _give_place(self, session: Session) -> None:
        """Called by a session whose peer was refused and told so."""
        with self._lock:
            self._told[session] = None

    def _dismiss(self) -> None:
        """End connections that were refused and told so, the first ones first, where more are open than have a place:
        they take none, but a thread and a descriptor each."""
        with self._lock:
            over = len(self._served) + 1 - self._capacity.at_once
            chosen = [session for session in self._told if session not in self._cut][: max(0, over)]
            self._cut.update(chosen)
        for session in chosen:
            session.cut(MADE_ROOM)

    def _cut_some(
        self,
        among: Callable[[Iterable[Session]], Collection[Session]],
        most: int,
        near: Callable[[Peer], bool],
        full: str,
        newcomer: Session | None = None,
    ) -> None:
        """Cut a connection, as :func:`~flserver.network.capacity.who_goes` says, and more where many are served, so
        that a flood does not pay for each of its newcomers with a look at all. Where there is room then, the newcomer
        has its place. Raises Refused where none can go."""
        registered = self._context.exchange.registered_peers()
        clients = Clients([peer for peer, _ in registered], [peer for peer, there in registered if there])
        with self._lock:
            goes = who_goes(among(self._served.keys() - self._told.keys()), self._cut, clients, near)
            chosen = [] if goes is None else goes[: max(1, most // CUT_IN_TURN)]
            self._cut.update(chosen)
            if newcomer is not None and goes is not None:
                self._served[newcomer] = True
        if goes is None:
            raise Refused(full)
        for session in chosen:
            session.cut(MADE_ROOM if session.silent else MADE_PLACE)

    # --- threads -----------------------------------------------------------------------------------------------------

    def _start(self, session: Session) -> None:
        with self._lock:
            self._served[session] = False
        try:
            self._workers.give(session)
        except RuntimeError:
            with self._lock:
                del self._served[session]
            session.discard()
            raise

    def _run(self, session: Session) -> None:
        """Serve a session to its end, or to a decision that somebody else makes: no thread waits for that."""
        awaited = None
        try:
            awaited = session.go_on()
        except Exception:
            # A defect of ours in one session must not be silent, nor cost the others anything.
            logger.exception("session %d failed", session.connection_id)
        finally:
            if awaited is None:
                with self._lock:
                    del self._served[session]
                    self._cut.discard(session)
                    self._told.pop(session, None)
                    if self._one_awaited:
                        self._one_ended.notify()
        if awaited is not None:
            awaited.then(lambda: self._workers.resume(session))

    def stop_accepting(self) -> None:
        """No new connections from here on."""
        self._stopped.set()
        with self._lock:
            self._one_ended.notify()
        self._listener.close()
        self._acceptor.join()

    def close(self, grace: float) -> None:
        """Give the sessions ``grace`` seconds to say goodbye, then cut those that are left, and join all."""
        self._context.give_up()
        self._await_end(lambda: not self._served, grace)
        self._context.memory.close()
        self._context.decoding.close()
        with self._lock:
            left = list(self._served)
        for session in left:
            session.cut("the server stopped")
        self._await_end(lambda: not self._served, ANSWER_SECONDS)  # also those that no thread has
        self._workers.close()
        self._context.strangers.close()
