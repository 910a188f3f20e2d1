"""The first connection of a trainer: registered, then every model as it comes, then <FINISHED>."""

import contextlib
import select
import threading
from collections.abc import Callable

from flserver.clock import Deadline
from flserver.errors import ConnectionLost, IdentityRefused, MessageRefused, PeerError, RegistrationRefused, StoreError
from flserver.events.words import LeftReason
from flserver.network.bell import Bell
from flserver.network.connection import REPLY_PACE, AcceptedConnection, Sending
from flserver.network.inherited import HandedOn, InheritedTrainer
from flserver.network.memory import Room
from flserver.network.record import Outgoing
from flserver.network.transport import Pace, Received, receive_frame
from flserver.rounds import Registration, SentModel
from flserver.rounds.broadcast import Ticket
from flserver.rounds.endings import Farewell
from flserver.wire.framing import FrameReader
from flserver.wire.messages import UNDERSTANDS_GOODBYE, Error, Finished, GlobalModel, Metadata, Success


class RegisteredTrainer:
    """One registration, from its <METADATA> to the end of its connection."""

    def __init__(self, connection: AcceptedConnection) -> None:
        self._connection = connection
        self._channel, self._record = connection.channel, connection.record
        self._exchange, self._recorder = connection.context.exchange, connection.context.recorder
        self._bell = Bell()
        # Whose turn it is to send: the session's thread has it, but while it waits for the bell. Guards the next two.
        self._turn = threading.Lock()
        self._begun: tuple[Ticket, Sending] | None = None
        self._over = False  # the connection may be closed
        self._holds: SentModel | None = None  # the last model that it was sent

    def serve(self, metadata: Metadata, frame: Received) -> LeftReason:
        """Register the client that ``frame``'s message names, and serve it to the end. Returns why it ended.

        Raises PeerError and StoreError.
        """
        return self._take_part(metadata, lambda: self._register(metadata, frame), told=False)

    def go_on(self, trainer: InheritedTrainer) -> LeftReason:
        """The same for one that an earlier server of the run has registered, and told so."""
        self._holds = trainer.holds
        return self._take_part(trainer.metadata, lambda: self._register_again(trainer), told=True)

    def _take_part(self, metadata: Metadata, register: Callable[[], Registration], *, told: bool) -> LeftReason:
        with contextlib.closing(self._bell), self._turn:
            registration = register()
            reason: LeftReason = "other"
            try:
                self._recorder.flush()  # promise 2: it is on record before the trainer is told so
                if not told:
                    self._connection.reply(
                        Success(msg=f"Registered as client {metadata.client_id}", run=self._connection.context.run_id)
                    )
                self._exchange.confirm_registration(
                    registration, self._bell.ring, lambda: self._send_at_once(registration)
                )
                reason = self._send_models(registration, metadata)
                self._say_goodbye(reason, understood=metadata.info.get(UNDERSTANDS_GOODBYE) is True)
            except ConnectionLost as error:
                # A trainer that has registered is cut only where the server stops.
                reason = error.cause if self._connection.cut_because is None else "stopped"
                raise
            except MessageRefused:
                reason = "protocol"
                raise
            except (StoreError, HandedOn):
                reason = "stopped"
                raise
            finally:
                self._over = True
                self._exchange.leave(registration, reason)
                self._record.left(registration, reason)
            return reason

    def _register(self, metadata: Metadata, frame: Received) -> Registration:
        """Reserve the registration and put it on record; where it is refused, tell the trainer why and raise."""
        peer = self._connection.peer
        self._record.purpose, self._record.client_id = "register", metadata.client_id
        try:
            registration = self._exchange.register(metadata.client_id, metadata.data_size, peer)
        except (RegistrationRefused, IdentityRefused) as error:
            if isinstance(error, IdentityRefused):
                self._record.client_id = None  # it is not who it says it is; the reason says who that was
            self._record.received(frame, header=metadata.header, outcome=error.outcome, reason=str(error))
            self._record.make_durable(self._connection.why(error))
            self._connection.reply(Error(msg=error.told if isinstance(error, RegistrationRefused) else str(error)))
            raise
        self._put_on_record(metadata, registration, frame)
        return registration

    def _register_again(self, trainer: InheritedTrainer) -> Registration:
        """Reserve a registration for a trainer that has one of an earlier server. Raises where it is refused now."""
        metadata = trainer.metadata
        self._record.purpose, self._record.client_id = "register", metadata.client_id
        peer = self._connection.peer
        registration = self._exchange.register(metadata.client_id, metadata.data_size, peer, trainer.holds)
        self._put_on_record(metadata, registration, None)
        return registration

    def _put_on_record(self, metadata: Metadata, registration: Registration, frame: Received | None) -> None:
        self._connection.registered, identity = True, self._connection.context.identity
        try:
            label = identity.label(metadata.client_id)
            self._record.registered(frame, metadata, registration, identity.of(self._connection.peer), label)
        except BaseException:
            self._exchange.leave(registration)
            raise

    def _send_models(self, registration: Registration, metadata: Metadata) -> LeftReason:
        """Send every model as it comes, until the farewell, whose reason is returned."""
        while True:
            if self._begun is not None:
                self._send_rest()
            if self._connection.context.hands_on:
                raise HandedOn(self._connection.inherited(metadata, self._holds))
            match self._exchange.next_ticket(registration):
                case Ticket() as ticket:
                    self._send_model(ticket)
                case Farewell(reason):
                    return reason
                case None:
                    self._wait()

    def _say_goodbye(self, reason: LeftReason, *, understood: bool) -> None:
        """Tell the trainer that its run is over; where it only stopped, say that too, which flclient understands.

        With ``--goodbye close``, and where no model ever came about, who would take that for the end is told nothing:
        its connection ends in the middle, and whoever keeps the trainer running starts it again.
        """
        stopped, context = reason == "stopped", self._connection.context
        if not stopped or understood or (context.goodbye == "finished" and context.has_model):
            self._connection.reply(Finished(complete=not stopped))

    def _wait(self) -> None:
        """Wait until the bell rings. Raises where the trainer goes away, or speaks out of turn, first."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._bell, select.POLLIN)
        holding = self._channel.holding
        self._turn.release()
        try:
            ready = {descriptor for descriptor, _ in poll.poll(0 if holding else None)}
        finally:
            self._turn.acquire()
        if self._begun is not None:
            self._bell.hush()
            return
        if holding or self._channel.fileno() in ready:
            cause = self._channel.ended()
            if cause is not None:
                raise ConnectionLost(f"the trainer's connection ended: {cause}", cause)
            if self._channel.readable():
                self._refuse_speech()
        if self._bell.fileno() in ready:
            self._bell.hush()

    def _refuse_speech(self) -> None:
        """A registered trainer has nothing to say on this connection: record what it said and let it go."""
        frame = Received(FrameReader(self._connection.conversation.frame_limits()))
        reason = "a registered trainer sent something on its first connection"
        try:
            receive_frame(self._channel, frame, _no_room, Deadline.after(REPLY_PACE.whole), REPLY_PACE)
        except PeerError as error:
            self._record.received(frame, header=None, outcome="refused", reason=reason)
            raise MessageRefused(reason) from error

    # --- models ------------------------------------------------------------------------------------------------------

    def _send_at_once(self, registration: Registration) -> bool:
        """Send a new model on the thread that publishes it, while the session's waits, as far as the system takes it at
        once. False where that is not all, or somebody would have to be waited for: then the bell is to ring."""
        if self._recorder.crowded or not self._turn.acquire(blocking=False):
            return False
        try:
            if self._over:  # whoever publishes had its bell from before that
                return True
            ticket = self._exchange.next_ticket(registration)
            if not isinstance(ticket, Ticket):
                return ticket is None
            self._begun = ticket, self._begin(ticket)
            if not self._connection.send_at_once(self._begun[1]):
                return False
            self._begun, self._holds = None, ticket.sent
            ticket.broadcast.release()
            return True
        finally:
            self._turn.release()

    def _begin(self, ticket: Ticket) -> Sending:
        broadcast = ticket.broadcast
        return self._connection.begin(Outgoing(GlobalModel, "pickle", broadcast.body, broadcast.digest, ticket.sent))

    def _send_model(self, ticket: Ticket) -> None:
        self._begun = ticket, self._begin(ticket)
        self._send_rest()

    def _send_rest(self) -> None:
        assert self._begun is not None
        (ticket, sending), self._begun = self._begun, None
        broadcast = ticket.broadcast

        def unwanted() -> str | None:
            return "read its model too slowly: newer ones need its memory" if broadcast.revoked else None

        try:
            # No rate: trainers read as they can, and one that stops altogether is noticed by the system.
            self._connection.send_rest(sending, Pace(whole=self._connection.context.limits.pace.whole), unwanted)
            self._holds = ticket.sent
        finally:
            broadcast.release()


def _no_room(length: int) -> Room:
    raise AssertionError("no frame that needs room may come here")
