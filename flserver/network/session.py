"""One connection on one thread, one straight line from hello to goodbye.

Who it is: a forwarder's header, the TLS handshake. Then the first message, which says what the connection is for: a
registration goes on in ``registration``, an upload in ``upload``. What the peer does wrong ends this connection and
nothing else.
"""

import contextlib
import logging
import socket
from collections.abc import Callable, Generator, Iterator

from flserver.clock import Deadline
from flserver.errors import (
    ConnectionLost,
    HandshakeRefused,
    MessageRefused,
    NotAskedFor,
    PeerError,
    Refused,
    StoreError,
    one_line,
)
from flserver.events.words import StrangerReason
from flserver.identity.peer import Peer
from flserver.network.channel import Channel, nothing
from flserver.network.connection import AcceptedConnection
from flserver.network.context import Context
from flserver.network.inherited import HandedOn
from flserver.network.memory import Room
from flserver.network.reading import read_message
from flserver.network.record import ConnectionRecord
from flserver.network.registration import RegisteredTrainer
from flserver.network.transport import HANDED_DOWN, Received, receive_frame, tune
from flserver.rounds.door import Awaited
from flserver.wire.framing import FrameReader
from flserver.wire.messages import Error, Metadata, Update
from flserver.wire.protocol import Conversation, Role
from flserver.wire.repeats import Repeats

logger = logging.getLogger(__name__)

LINGER_SECONDS = 0.5  # for a peer that was told why it is refused


class Session:
    """Serves one accepted connection; ``go_on`` returns None when it is over.

    ``take_place`` is called when it is known where the peer is; what it raises ends the session. ``give_place`` is
    called when the peer was refused and told so: what follows is for it to read that. ``leave`` is called when it waits
    for its peer, or may wait for others for long.
    """

    def __init__(
        self,
        sock: socket.socket,
        peer: Peer,
        connection_id: int,
        context: Context,
        take_place: Callable[["Session"], None],
        give_place: Callable[["Session"], None] = lambda session: None,
        leave: Callable[["Session"], None] = lambda session: None,
    ) -> None:
        accepted_at, knows, limits = context.exchange.accepted(), context.known.is_set(), context.limits
        self._context = context
        self._connection = AcceptedConnection(
            context=context,
            channel=Channel(sock),
            conversation=Conversation(
                Role.SERVER, json_limit=limits.json, pickle_limit=limits.pickle, pickles=limits.pickles
            ),
            record=ConnectionRecord(context.recorder, context.strangers, connection_id, context.message_ids),
            peer=peer,
            accepted_at=accepted_at,
            knows_model=knows,
        )
        self._channel, self._record = self._connection.channel, self._connection.record
        self._connection.channel.before_wait = lambda: leave(self)
        self._take_place, self._give_place = take_place, give_place
        self._handed_on = False
        self._first, self._linger = Received(FrameReader(self._connection.conversation.frame_limits())), 0.0
        self._life: Iterator[Awaited] = self._live()

    @property
    def peer(self) -> Peer:
        """The other end, as far as it is known."""
        return self._connection.peer

    @property
    def owner(self) -> str:
        """Whose it is, as far as turns go: its address's."""
        return self.peer.host

    @property
    def client(self) -> None:
        """Which one of the owner's clients sends it is not known before it is read."""

    @property
    def silent(self) -> bool:
        """Whether the first message has not come yet: not all of it, nor what was refused before."""
        return not self._record.messages_in and not self._first.reader.complete

    @property
    def registered(self) -> bool:
        """Whether it is the first connection of a trainer that takes part."""
        return self._connection.registered

    @property
    def first_bytes(self) -> int:
        """How many bytes of the first message have come; of what nobody reads yet, how many wait."""
        return self._first.bytes or self._channel.unread()

    @property
    def connection_id(self) -> int:
        return self._record.connection_id

    # --- for the owner -----------------------------------------------------------------------------------------------

    def cut(self, reason: str) -> None:
        """End a connection that does not end by itself, nor goes on elsewhere; its thread then sees end of file."""
        with self._context.handing:
            if self._handed_on:
                return
            self._connection.cut_because = self._connection.cut_because or reason
        self._channel.cut()

    def discard(self) -> None:
        """Close a session that never ran, which is gone with whoever has it."""
        self._life = iter(())  # a generator that has not begun keeps what it is of
        self._channel.close()
        self._context.exchange.ended(self._connection.accepted_at)

    def go_on(self) -> Awaited | None:
        """Serve it, from where that was left, to its end, or to a decision that is awaited. Raises a defect of ours."""
        return next(self._life, None)

    def _live(self) -> Iterator[Awaited]:
        reason = "closed"
        why: StrangerReason = "other"
        try:
            self._record.opened(self.peer, behind=self._context.preamble.trusts(self.peer.host))
            if not HANDED_DOWN:
                with contextlib.suppress(OSError):  # a peer that is gone already shows when it is read
                    tune(self._channel.sock, self._context.limits.peer_timeout)
            self._identify()
            reason = yield from self._serve()
        except PeerError as error:
            reason, why = self._connection.because(error), self._connection.why(error)
        except StoreError as error:
            reason = "server stopped"
            logger.debug("connection %d ends: %s", self.connection_id, error)
        except HandedOn as handed:
            reason = self._hand_on(handed)
        except Exception as error:
            reason = f"server error: {one_line(error)}"
            raise
        finally:
            if self._linger:
                self._give_place(self)
            if not self._handed_on:
                self._channel.close(self._linger)
            self._record.closed(reason, why)
            self._context.exchange.ended(self._connection.accepted_at)

    def _hand_on(self, handed: HandedOn) -> str:
        """Let whoever goes on with the trainer have its connection, if it was not cut before. Why it ends here."""
        with self._context.handing:
            if self._connection.cut_because is not None:
                return self._connection.cut_because
            self._handed_on, self._channel.before_wait = True, nothing
            self._context.handed_on.append(handed.trainer)
        return str(handed)

    # --- the straight line -------------------------------------------------------------------------------------------

    def _identify(self) -> None:
        """Learn who the peer is, and whether it has a place.

        Raises PeerError where it has none, or where it does not begin as this port asks for.
        """
        connection, preamble = self._connection, self._context.preamble
        if preamble.trusts(self.peer.host):
            try:
                connection.peer = preamble.read_proxy_header(self._channel, self.peer, self._record.count_bytes)
            except PeerError as error:
                self._record.not_begun(error.outcome, connection.because(error))
                raise
            if self.peer.proxy_host is not None:
                self._record.identified(self.peer)
            else:
                self._record.come_from(self.peer)  # it speaks for itself
        self._take_place(self)  # before the work of a handshake
        if preamble.tls is not None:
            try:
                connection.peer = preamble.shake_hands(self._channel, self.peer)
            except HandshakeRefused as error:
                self._linger = LINGER_SECONDS
                self._record.not_begun(error.outcome, connection.because(error))
                raise
            self._record.identified(self.peer)

    def _serve(self) -> Generator[Awaited, None, str]:
        """Read the first message and do what the connection is for. Returns why it closed."""
        frame = self._first
        try:
            match self._receive(frame):
                case Metadata() as metadata:
                    self._channel.before_wait()
                    return RegisteredTrainer(self._connection).serve(metadata, frame)
                case Update() as update:
                    yield from self._upload(update, frame)
                    return "closed"
                case NotAskedFor() as not_asked:
                    self._not_read(not_asked, frame)
                    return "closed"
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

    def _not_read(self, not_asked: NotAskedFor, frame: Received) -> None:
        from flserver.network.unusable import keep_duplicate, refuse_upload

        try:
            keep_duplicate(self._connection, frame, not_asked)
        except Refused as refusal:  # who may speak for it has changed meanwhile
            refusal.header, refusal.client_id = not_asked.header, not_asked.client_id
            refuse_upload(self._connection, frame, refusal)
            raise

    def _upload(self, update: Update, frame: Received) -> Iterator[Awaited]:
        from flserver.network.upload import take_update

        try:
            yield from take_update(self._connection, update, frame)
        except Refused as refusal:
            from flserver.network.unusable import refuse_upload

            refuse_upload(self._connection, frame, refusal)
            raise
        except ConnectionLost as error:  # the server stops, and there is no room any more
            self._record.received(frame, header=update.header, outcome=error.outcome, reason=str(error))
            raise

    def _receive(self, frame: Received) -> object:
        """Read the frame and decode the message in it.

        What holds no message that may come now is put on record, and the PeerError that says why is raised. An upload
        that cannot be used is decided all the same, and one that is not read is returned as NotAskedFor. Who sent a
        registration that was not understood is told so.
        """
        context, connection = self._context, self._connection
        try:
            first, pace = Deadline.after(context.limits.first_frame), context.limits.pace
            receive_frame(self._channel, frame, self._room, first, pace)
            return read_message(connection, frame)
        except NotAskedFor as refusal:
            return refusal
        except PeerError as error:
            if (frame.reader.encoding == "json" or not self._refuse_upload(frame, error)) and frame.bytes:
                self._connection.refused(frame, error)
            if isinstance(error, MessageRefused) and frame.reader.encoding == "json" and frame.reader.complete:
                # A person reads what the trainer prints: say what is wrong with the registration.
                self._linger = LINGER_SECONDS
                self._record.make_durable(connection.why(error))
                connection.reply(Error(msg=str(error)))
            raise

    def _refuse_upload(self, frame: Received, error: PeerError) -> bool:
        """Whether what could not be used is an upload; then it is decided, on record."""
        from flserver.network.unusable import is_upload, refuse_upload

        if not isinstance(error, Refused) or not is_upload(frame, error):
            return False
        refuse_upload(self._connection, frame, error)
        return True

    def _room(self, length: int) -> Room:
        """Find room for a body of ``length`` bytes; raises as ``Context.room`` and ``await_model``."""
        self._context.exchange.expect_upload(self.peer)
        self._connection.await_model(self._first.reader)
        from flserver.network.unusable import check_asked

        self._channel.before_wait()  # its lane is its turn from here on
        limits = self._context.limits
        check_asked(self._connection, self._first)
        if length > limits.usual:
            self._first.repeats = Repeats(limits.ordinary)
        return self._context.room(self.peer, length)
