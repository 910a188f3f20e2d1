"""One connection on one thread, one straight line from hello to goodbye.

A registration: <METADATA> in, recorded, answered; then every model as it comes; <FINISHED>. An upload: read, decoded,
inspected, offered, recorded. What the peer does wrong ends this connection and nothing else.
"""

import contextlib
import logging
import select
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import NoReturn

import blake3

from flserver.aggregation.checks import inspect
from flserver.bus import Bus
from flserver.clock import Deadline, monotonic, utc_now
from flserver.errors import ConnectionLost, MessageRefused, PeerError, RegistrationRefused, StoreError, one_line
from flserver.exchange import Exchange, Farewell, Submission, Ticket
from flserver.network.correspondence import Correspondence
from flserver.network.memory import ReceiveMemory
from flserver.network.transport import Progress, Received, peer_state, receive_frame, send_frame, tune
from flserver.rounds import Registration
from flserver.state import as_tensor
from flserver.wire.framing import FrameReader
from flserver.wire.messages import (
    FINISHED_BODY,
    Error,
    Finished,
    GlobalModel,
    Metadata,
    Success,
    Update,
    encode_json,
)
from flserver.wire.pickles import PickleLimits
from flserver.wire.protocol import Connection, Role

logger = logging.getLogger(__name__)

GOODBYE_SECONDS = 5.0  # for a small frame to a peer that may not be reading


@dataclass(frozen=True)
class Limits:
    """What one connection may use (bytes, seconds)."""

    json: int
    pickle: int
    tensors: int
    pickles: PickleLimits
    first_frame: float
    frame: float


@dataclass(frozen=True)
class Desk:
    """What every session works with. ``message_ids`` and ``update_ids`` give numbers unique in the database."""

    exchange: Exchange
    bus: Bus
    memory: ReceiveMemory
    limits: Limits
    tied: Mapping[str, str]
    message_ids: "count[int]"
    update_ids: "count[int]"


class Session:
    """Serves one accepted connection; ``run`` returns when it is over."""

    def __init__(self, sock: socket.socket, address: tuple[str, int], connection_id: int, desk: Desk) -> None:
        self._accepted_at = monotonic()
        self._sock = sock
        self._address = address
        self._desk = desk
        self._exchange, self._bus, limits = desk.exchange, desk.bus, desk.limits
        self._record = Correspondence(desk.bus, connection_id, desk.message_ids)
        self._connection = Connection(
            Role.SERVER, json_limit=limits.json, pickle_limit=limits.pickle, pickles=limits.pickles
        )
        self._bell_in, self._bell_out = socket.socketpair()
        self._bell_out.setblocking(False)
        self._lock = threading.Lock()  # guards _closed: no call on a descriptor that is somebody else's by then
        self._closed = False

    @property
    def silent(self) -> bool:
        """Whether no message has come yet."""
        return not self._record.messages_in

    @property
    def connection_id(self) -> int:
        return self._record.connection_id

    def cut(self) -> None:
        """End a connection that does not end by itself; its thread then sees end of file. For the owner."""
        with self._lock:
            if not self._closed:
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)

    def discard(self) -> None:
        """Close a session that never ran. For the owner."""
        self._close()

    def run(self) -> None:
        """The whole life of the connection."""
        reason = "closed"
        try:
            self._record.opened(self._address[0], self._address[1])
            with contextlib.suppress(OSError):  # a peer that is gone already shows when it is read
                tune(self._sock)
            reason = self._serve()
        except PeerError as error:
            reason = str(error)
        except StoreError as error:
            reason = "server stopped"
            logger.debug("connection %d ends: %s", self.connection_id, error)
        except Exception as error:
            reason = f"server error: {one_line(error)}"
            raise
        finally:
            self._close()
            self._record.closed(reason)

    def _close(self) -> None:
        with self._lock:
            self._closed = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        for sock in (self._sock, self._bell_in, self._bell_out):
            sock.close()

    def _serve(self) -> str:
        """The first message decides what the connection is for. Returns why it closed."""
        frame = Received(FrameReader(self._connection.frame_limits()))
        try:
            match self._receive(frame):
                case Metadata() as metadata:
                    return self._participate(metadata, frame)
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
            receive_frame(self._sock, frame, self._desk.memory, Deadline.after(limits.first_frame), limits.frame)
            return self._connection.receive(frame.hold())
        except PeerError as error:
            if frame.bytes:
                header = error.header if isinstance(error, MessageRefused) else None
                self._record.received(frame, header=header, outcome=error.outcome, reason=str(error))
            raise

    # --- an upload ---------------------------------------------------------------------------------------------------

    def _take_update(self, update: Update, frame: Received) -> str:
        exchange = self._exchange
        self._record.purpose, self._record.client_id = "upload", update.client_id
        # Before the work of looking at it: many names can share one tensor, so the body does not bound that work.
        if not exchange.knows(update.client_id):
            self._refuse_update(update, frame, f"an update for client {update.client_id}, which has not registered")
        tensors = {name: as_tensor(view) for name, view in update.model.tensors.items()}
        most = self._desk.limits.tensors
        if sum(tensor.nbytes for tensor in tensors.values()) > most:
            self._refuse_update(update, frame, f"its tensors hold more than {most} bytes together")
        inspection = inspect(tensors, exchange.global_state, self._desk.tied)
        submission = Submission(
            update_id=next(self._desk.update_ids),
            client_id=update.client_id,
            accepted_at=self._accepted_at,
            tensors=tensors,
            rejection=inspection.rejection,
            metrics=update.metrics,
            release=frame.release,
        )
        verdict = exchange.offer(submission)
        try:
            self._record.update(frame, submission, inspection, verdict)
        finally:
            exchange.recorded(submission, verdict)
        return "closed"

    def _refuse_update(self, update: Update, frame: Received, reason: str) -> NoReturn:
        self._record.received(frame, header=update.header, outcome=MessageRefused.outcome, reason=reason)
        raise MessageRefused(reason)

    # --- a registration ----------------------------------------------------------------------------------------------

    def _participate(self, metadata: Metadata, frame: Received) -> str:
        self._record.purpose, self._record.client_id = "register", metadata.client_id
        try:
            registration = self._exchange.register(metadata.client_id, metadata.data_size)
        except RegistrationRefused as error:
            self._record.received(frame, header=metadata.header, outcome=error.outcome, reason=str(error))
            self._bus.flush()
            self._send_small(Error, encode_json(Error(msg=str(error))), "json")
            raise
        try:
            self._record.received(frame, header=metadata.header)
            self._record.registered(metadata, registration)
        except BaseException:
            self._exchange.leave(registration)
            raise
        reason = "other"
        try:
            self._bus.flush()
            self._send_small(Success, encode_json(Success(msg=f"Registered as client {metadata.client_id}")), "json")
            self._exchange.admit(registration, self._ring)
            reason = self._send_models(registration)
        except ConnectionLost as error:
            reason = error.cause
            raise
        except MessageRefused:
            reason = "protocol"
            raise
        except StoreError:
            reason = "stopped"
            raise
        finally:
            self._exchange.leave(registration)
            self._record.left(registration, reason)
        return reason

    def _send_models(self, registration: Registration) -> str:
        """Every model as it comes, until the farewell or the end of the connection. Returns why it ended."""
        while True:
            match self._exchange.next_ticket(registration):
                case Ticket() as ticket:
                    self._send_model(ticket)
                case Farewell(reason):
                    self._send_small(Finished, FINISHED_BODY, "pickle")
                    return reason
                case None:
                    self._wait()

    def _ring(self) -> None:
        """There may be a new ticket; called from the coordinator's thread."""
        with contextlib.suppress(OSError):  # a full pipe rings already; a closed one hears nobody
            self._bell_out.send(b"\0")

    def _wait(self) -> None:
        """Until the bell rings. Raises where the trainer goes away, or speaks out of turn, first."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._bell_in, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll()}
        if self._sock.fileno() in ready:
            cause = peer_state(self._sock)
            if cause is not None:
                raise ConnectionLost(f"the trainer's connection ended: {cause}", cause)
            self._refuse_speech()
        if self._bell_in.fileno() in ready:
            self._bell_in.recv(4096)

    def _refuse_speech(self) -> None:
        """A registered trainer has nothing to say on this connection: record what it said and let it go."""
        frame = Received(FrameReader(self._connection.frame_limits()))
        reason = "a registered trainer sent something on its first connection"
        try:
            receive_frame(self._sock, frame, self._desk.memory, Deadline.after(GOODBYE_SECONDS), GOODBYE_SECONDS)
        except PeerError as error:
            self._record.received(frame, header=None, outcome="refused", reason=reason)
            raise MessageRefused(reason) from error

    def _send_model(self, ticket: Ticket) -> None:
        sent, broadcast, sent_at = ticket.sent, ticket.broadcast, None

        def before_last() -> None:
            nonlocal sent_at
            sent.handed_over_at, sent_at = monotonic(), utc_now()

        body, digest, started, failure = broadcast.body, broadcast.digest, monotonic(), None
        progress = Progress()
        try:
            self._connection.send(GlobalModel)
            send_frame(self._sock, body, Deadline.after(self._desk.limits.frame), before_last, progress)
            sent.fully_sent_at = monotonic()
        except ConnectionLost as error:
            failure = str(error)
            raise
        finally:
            broadcast.release()
            self._record.sent(
                header=GlobalModel.header,
                encoding="pickle",
                bytes=progress.bytes,
                digest=digest,
                seconds=monotonic() - started,
                failure=failure,
                ticket=ticket,
                sent_at=sent_at,
            )

    def _send_small(self, kind: type[Success | Error | Finished], body: bytes, encoding: str) -> None:
        started, failure, progress = monotonic(), None, Progress()
        try:
            self._connection.send(kind)
            send_frame(self._sock, body, Deadline.after(GOODBYE_SECONDS), progress=progress)
        except ConnectionLost as error:
            failure = str(error)
            raise
        finally:
            self._record.sent(
                header=kind.header,
                encoding=encoding,
                bytes=progress.bytes,
                digest="blake3:" + blake3.blake3(body).hexdigest(),
                seconds=monotonic() - started,
                failure=failure,
            )
