"""The first connection of a registered trainer: admitted, then every model as it comes, then <FINISHED>."""

import contextlib
import select
import socket

from flserver.clock import Deadline, monotonic, utc_now
from flserver.errors import ConnectionLost, IdentityRefused, MessageRefused, PeerError, RegistrationRefused, StoreError
from flserver.events.words import LeftReason
from flserver.identity.peer import Peer
from flserver.network.channel import Channel
from flserver.network.context import Desk
from flserver.network.memory import Room
from flserver.network.record import GOODBYE, Correspondence, answer
from flserver.network.transport import Pace, Progress, Received, receive_frame, send_frame
from flserver.rounds import Registration
from flserver.rounds.exchange import Farewell, Ticket
from flserver.wire.framing import FrameReader
from flserver.wire.messages import Error, Finished, GlobalModel, Metadata, Success
from flserver.wire.protocol import Connection


class Participation:
    """One registration, from its <METADATA> to the end of its connection."""

    def __init__(
        self, desk: Desk, channel: Channel, connection: Connection, record: Correspondence, peer: Peer
    ) -> None:
        self._desk, self._channel, self._connection, self._record = desk, channel, connection, record
        self._exchange, self._bus, self._peer = desk.exchange, desk.bus, peer
        self._bell_in, self._bell_out = socket.socketpair()
        self._bell_out.setblocking(False)

    def serve(self, metadata: Metadata, frame: Received) -> str:
        """Register, and stay until the end. Returns why it closed."""
        with self._bell_in, self._bell_out:
            return self._serve(metadata, frame)

    def _serve(self, metadata: Metadata, frame: Received) -> str:
        self._record.purpose, self._record.client_id = "register", metadata.client_id
        try:
            registration = self._exchange.register(metadata.client_id, metadata.data_size, self._peer)
        except (RegistrationRefused, IdentityRefused) as error:
            if isinstance(error, IdentityRefused):
                self._record.client_id = None  # it is not who it says it is; the reason says who that was
            self._record.received(frame, header=metadata.header, outcome=error.outcome, reason=str(error))
            self._bus.flush()
            self._answer(Error(msg=str(error)))
            raise
        identity = self._desk.identity
        try:
            self._record.received(frame, header=metadata.header)
            self._record.registered(metadata, registration, identity.of(self._peer), identity.label(metadata.client_id))
        except BaseException:
            self._exchange.leave(registration)
            raise
        reason: LeftReason = "other"
        try:
            self._bus.flush()
            self._answer(Success(msg=f"Registered as client {metadata.client_id}"))
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

    def _answer(self, message: Success | Error | Finished) -> None:
        answer(self._channel, self._connection, self._record, message)

    def _send_models(self, registration: Registration) -> LeftReason:
        """Every model as it comes, until the farewell or the end of the connection. Returns why it ended."""
        while True:
            match self._exchange.next_ticket(registration):
                case Ticket() as ticket:
                    self._send_model(ticket)
                case Farewell(reason):
                    self._answer(Finished())
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
        poll.register(self._channel, select.POLLIN)
        poll.register(self._bell_in, select.POLLIN)
        holding = self._channel.holding
        ready = {descriptor for descriptor, _ in poll.poll(0 if holding else None)}
        if holding or self._channel.fileno() in ready:
            cause = self._channel.ended()
            if cause is not None:
                raise ConnectionLost(f"the trainer's connection ended: {cause}", cause)
            if self._channel.readable():
                self._refuse_speech()
        if self._bell_in.fileno() in ready:
            self._bell_in.recv(4096)

    def _refuse_speech(self) -> None:
        """A registered trainer has nothing to say on this connection: record what it said and let it go."""
        frame = Received(FrameReader(self._connection.frame_limits()))
        reason = "a registered trainer sent something on its first connection"
        try:
            receive_frame(self._channel, frame, _no_room, Deadline.after(GOODBYE.whole), GOODBYE)
        except PeerError as error:
            self._record.received(frame, header=None, outcome="refused", reason=reason)
            raise MessageRefused(reason) from error

    def _send_model(self, ticket: Ticket) -> None:
        sent, broadcast, sent_at = ticket.sent, ticket.broadcast, None

        def before_last() -> None:
            nonlocal sent_at
            sent.handed_over_at, sent_at = monotonic(), utc_now()

        def unwanted() -> str | None:
            return "read its model too slowly: newer ones need its memory" if broadcast.revoked else None

        body, digest, started, failure = broadcast.body, broadcast.digest, monotonic(), None
        progress = Progress()
        self._connection.send(GlobalModel)
        try:
            # No rate: trainers read as they can, and one that stops altogether is noticed by the system.
            send_frame(self._channel, body, Pace(whole=self._desk.limits.pace.whole), before_last, progress, unwanted)
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


def _no_room(length: int) -> Room:
    raise AssertionError("no frame that needs room may come here")
