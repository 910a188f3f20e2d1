"""One connection on one thread, one straight line from hello to goodbye.

Who it is: a forwarder's header, the TLS handshake. Then the first message, which says what the connection is for: a
registration goes on in ``participation``; an upload is read, decoded, inspected, offered and recorded here. What the
peer does wrong ends this connection and nothing else.
"""

import contextlib
import logging
import socket
from collections.abc import Callable
from typing import NoReturn

from flserver.aggregation.checks import inspect
from flserver.clock import Deadline, monotonic
from flserver.errors import (
    ConnectionLost,
    HandshakeRefused,
    IdentityRefused,
    MessageRefused,
    PeerError,
    Refused,
    RegistrationRefused,
    StoreError,
    one_line,
)
from flserver.identity.peer import Peer
from flserver.models.state import as_tensor
from flserver.network.channel import Channel
from flserver.network.context import Desk
from flserver.network.memory import Room
from flserver.network.record import Correspondence, answer
from flserver.network.registration import Participation
from flserver.network.transport import Received, receive_frame, tune
from flserver.rounds.exchange import Submission
from flserver.wire.framing import FrameReader
from flserver.wire.messages import Error, Metadata, Update
from flserver.wire.protocol import Connection, Role

logger = logging.getLogger(__name__)

LINGER_SECONDS = 0.5  # for a peer that was told why it is refused


class Session:
    """Serves one accepted connection; ``run`` returns when it is over.

    ``admit`` is called when it is known where the peer is; what it raises ends the session.
    """

    def __init__(
        self, sock: socket.socket, peer: Peer, connection_id: int, desk: Desk, admit: Callable[["Session"], None]
    ) -> None:
        self._accepted_at = monotonic()
        self._channel = Channel(sock)
        self._desk = desk
        self._admit = admit
        self._exchange, self._bus, limits = desk.exchange, desk.bus, desk.limits
        self._record = Correspondence(desk.bus, connection_id, desk.message_ids)
        self._connection = Connection(
            Role.SERVER, json_limit=limits.json, pickle_limit=limits.pickle, pickles=limits.pickles
        )
        self._first = Received(FrameReader(self._connection.frame_limits()))
        self._cut_because: str | None = None
        self._linger = 0.0
        self.peer = peer

    @property
    def silent(self) -> bool:
        """Whether the first message has not come yet."""
        return not self._record.messages_in

    @property
    def first_bytes(self) -> int:
        """How many bytes of the first message have come."""
        return self._first.bytes

    @property
    def connection_id(self) -> int:
        return self._record.connection_id

    def cut(self, reason: str) -> None:
        """End a connection that does not end by itself; its thread then sees end of file. For the owner."""
        self._cut_because = self._cut_because or reason
        self._channel.cut()

    def discard(self) -> None:
        """Close a session that never ran. For the owner."""
        self._channel.close()

    def run(self) -> None:
        """The whole life of the connection."""
        reason = "closed"
        try:
            self._record.opened(self.peer)
            with contextlib.suppress(OSError):  # a peer that is gone already shows when it is read
                tune(self._channel.sock, self._desk.limits.peer_timeout)
            self._introduce()
            reason = self._serve()
        except PeerError as error:
            reason = self._because(error)
        except StoreError as error:
            reason = "server stopped"
            logger.debug("connection %d ends: %s", self.connection_id, error)
        except Exception as error:
            reason = f"server error: {one_line(error)}"
            raise
        finally:
            self._channel.close(self._linger)
            self._record.closed(reason)

    def _because(self, error: PeerError) -> str:
        """Why this happened: where we cut the connection, what the thread saw of it says nothing."""
        seen = isinstance(error, ConnectionLost | HandshakeRefused)
        return self._cut_because if self._cut_because is not None and seen else str(error)

    def _introduce(self) -> None:
        """Learn who the peer is, and whether it has a place. Raises PeerError where not, or where it does not begin as
        this port asks for."""
        introduction = self._desk.introduction
        if introduction.trusts(self.peer.host):
            try:
                self.peer = introduction.read_proxy_header(self._channel, self.peer, self._record.count_bytes)
            except PeerError as error:
                self._record.not_begun(error.outcome, self._because(error))
                raise
            if self.peer.proxy_host is not None:
                self._record.identified(self.peer)
        self._admit(self)  # before the work of a handshake
        if introduction.tls is not None:
            try:
                self.peer = introduction.shake_hands(self._channel, self.peer)
            except HandshakeRefused as error:
                self._linger = LINGER_SECONDS
                self._record.not_begun(error.outcome, self._because(error))
                raise
            self._record.identified(self.peer)

    def _serve(self) -> str:
        """The first message decides what the connection is for. Returns why it closed."""
        frame = self._first
        try:
            match self._receive(frame):
                case Metadata() as metadata:
                    return Participation(self._desk, self._channel, self._connection, self._record, self.peer).serve(
                        metadata, frame
                    )
                case Update() as update:
                    return self._take_update(update, frame)
                case other:
                    raise AssertionError(f"the protocol lets no {type(other).__name__} in")
        except BaseException as error:
            frame.release()
            if not isinstance(error, PeerError | StoreError) and not self._record.messages_in:
                # A defect of ours, met by this peer: the message has its row all the same.
                self._record.received(frame, header=None, outcome="refused", reason=f"server error: {one_line(error)}")
            raise
        finally:
            frame.settled()

    def _receive(self, frame: Received) -> object:
        """The message in a frame. What is none is put on record and raised."""
        limits = self._desk.limits
        try:
            receive_frame(self._channel, frame, self._room, Deadline.after(limits.first_frame), limits.pace)
            if frame.reader.encoding == "pickle":
                self._exchange.expect_upload(self.peer)  # strangers do not get as far as the pickle machine
            return self._connection.receive(frame.hold())
        except PeerError as error:
            if frame.bytes:
                header = error.header if isinstance(error, MessageRefused) else None
                self._record.received(frame, header=header, outcome=error.outcome, reason=self._because(error))
            if isinstance(error, MessageRefused) and frame.reader.encoding == "json" and frame.reader.complete:
                # A person reads what the trainer prints: say what is wrong with the registration.
                self._linger = LINGER_SECONDS
                self._bus.flush()
                answer(self._channel, self._connection, self._record, Error(msg=str(error)))
            raise

    def _room(self, length: int) -> Room:
        """Room for a long body. Raises IdentityRefused where nobody's upload can come from the peer, and NoRoom."""
        share = self._exchange.expect_upload(self.peer)
        # For each client one update that is held for its turn, or hangs on a dead connection, and one that comes.
        return self._desk.memory.take(length, share.owner, 2 * share.clients * self._desk.limits.pickle)

    # --- an upload ---------------------------------------------------------------------------------------------------

    def _take_update(self, update: Update, frame: Received) -> str:
        exchange = self._exchange
        self._record.purpose, self._record.client_id = "upload", update.client_id
        # Before the work of looking at it: many names can share one tensor, so the body does not bound that work.
        try:
            exchange.check_upload(update.client_id, self.peer)
        except (RegistrationRefused, IdentityRefused) as error:
            self._refuse_update(update, frame, error)
        tensors = {name: as_tensor(view) for name, view in update.model.tensors.items()}
        most = self._desk.limits.tensors
        if sum(tensor.nbytes for tensor in tensors.values()) > most:
            self._refuse_update(update, frame, MessageRefused(f"its tensors hold more than {most} bytes together"))
        inspection = inspect(tensors, exchange.global_state, self._desk.tied)
        submission = Submission(
            update_id=next(self._desk.update_ids),
            client_id=update.client_id,
            peer=self.peer,
            accepted_at=self._accepted_at,
            tensors=tensors,
            digest=inspection.digest,
            rejection=inspection.rejection,
            metrics=update.metrics,
            release=frame.release,
        )
        try:
            verdict = exchange.offer(submission)
        except (RegistrationRefused, IdentityRefused) as error:  # who may speak for it has changed meanwhile
            self._refuse_update(update, frame, error)
        try:
            self._record.update(frame, submission, inspection, verdict, self._desk.identity.of(self.peer))
        finally:
            exchange.recorded(submission, verdict)
        return "closed"

    def _refuse_update(self, update: Update, frame: Received, refusal: Refused) -> NoReturn:
        if isinstance(refusal, IdentityRefused):
            self._record.client_id = None  # it is not who it says it is; the reason says who that was
        self._record.received(frame, header=update.header, outcome=refusal.outcome, reason=str(refusal))
        raise refusal
