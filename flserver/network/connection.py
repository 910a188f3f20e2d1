"""One accepted connection: its socket, where its conversation stands, and what of it goes on record."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import blake3

from flserver.clock import monotonic, utc_now
from flserver.errors import (
    ConnectionLost,
    HandshakeRefused,
    IdentityRefused,
    PeerError,
    Refused,
    RegistrationRefused,
    one_line,
)
from flserver.events.words import Encoding, StrangerReason
from flserver.identity.peer import Peer
from flserver.network.channel import Channel
from flserver.network.context import Context
from flserver.network.inherited import InheritedTrainer
from flserver.network.record import ConnectionRecord, Outgoing
from flserver.network.strangers import reason_of
from flserver.network.transport import Pace, Progress, Received, send_at_once, send_frame
from flserver.rounds import SentModel
from flserver.wire.framing import FrameReader
from flserver.wire.messages import FINISHED_BODY, STOPPED_BODY, Error, Finished, Metadata, Success, encode_json
from flserver.wire.protocol import Conversation

REPLY_PACE = Pace(whole=5.0)  # for a small frame to a peer that may not be reading


@dataclass
class Sending:
    """A frame on its way: since when (monotonic), how far it came, and when the last bytes of a model went."""

    frame: Outgoing
    started: float = field(default_factory=monotonic)
    progress: Progress = field(default_factory=Progress)
    sent_at: str | None = None

    def before_last(self) -> None:
        """The last bytes are about to go."""
        if self.frame.model is not None:
            self.frame.model.hand_over(monotonic())
            self.sent_at = utc_now()

    def not_all(self) -> None:
        """They did not go after all, and the rest is still to come."""
        if self.frame.model is not None:
            self.frame.model.take_back()
            self.sent_at = None

    def sent(self) -> None:
        """The system has taken them."""
        if self.frame.model is not None:
            self.frame.model.sent(monotonic())


@dataclass
class AcceptedConnection:
    """What a session works with. ``peer`` is told more exactly once a forwarder, or TLS, has said who it is;
    ``accepted_at`` is monotonic; ``cut_because`` says why we cut it, if we did; ``registered`` is set where it is the
    first one of a trainer that takes part; ``knows_model`` says whether the limits on pickles are the model's."""

    context: Context
    channel: Channel
    conversation: Conversation
    record: ConnectionRecord
    peer: Peer
    accepted_at: float
    cut_because: str | None = None
    registered: bool = False
    knows_model: bool = True

    def await_model(self, reader: FrameReader) -> None:
        """Wait until it is known how large a model may be, where it was not yet when this connection came; ``reader``
        has what came of the first frame. Raises FrameTooLong, and ConnectionLost where it never is."""
        if self.knows_model:
            return
        self.context.await_model()
        self.knows_model, limits = True, self.context.limits
        self.conversation.limit_pickles(limits.pickle, limits.pickles)
        reader.narrow(self.conversation.frame_limits())

    def because(self, error: PeerError) -> str:
        """Why this happened: where we cut the connection, what its thread saw of it says nothing."""
        seen = isinstance(error, ConnectionLost | HandshakeRefused)
        return self.cut_because if self.cut_because is not None and seen else str(error)

    def why(self, error: PeerError) -> StrangerReason:
        """The same as the word that strangers are counted under."""
        seen = isinstance(error, ConnectionLost | HandshakeRefused)
        if self.cut_because is not None and seen:
            return "cut"
        return reason_of(error, spoke=self.record.messages_in > 0)

    def refused(self, frame: Received, error: PeerError) -> None:
        """Put a frame on record that brought no message, with what it said of itself."""
        header = error.header if isinstance(error, Refused) else None
        if isinstance(error, Refused):
            if header == Metadata.header:
                self.record.purpose = "register"
            told = isinstance(error, IdentityRefused | RegistrationRefused)  # the reason names it then
            if error.client_id is not None and not told and not self._may_be(error.client_id, header):
                error.args = (f"{error}; it says that it is of client {error.client_id}",)
        self.record.received(frame, header=header, outcome=error.outcome, reason=self.because(error))

    def _may_be(self, client_id: str, header: str | None) -> bool:
        """Whether a refused message is put down to the client that it names: a registration of who may speak for it."""
        with suppress(IdentityRefused):
            if header == Metadata.header:
                self.context.identity.check(client_id, self.peer)
                self.record.client_id = client_id
                return True
        return False

    def inherited(self, metadata: Metadata, holds: SentModel | None) -> InheritedTrainer:
        """The same without anything of this server: for whoever goes on with it."""
        return InheritedTrainer(
            channel=self.channel,
            peer=self.peer,
            metadata=metadata,
            conversation=self.conversation,
            connection_id=self.record.connection_id,
            holds=holds,
        )

    def reply(self, message: Success | Error | Finished) -> None:
        """Send a small message, on record. Raises ConnectionLost."""
        encoding: Encoding = "json"
        if isinstance(message, Finished):
            body, encoding = FINISHED_BODY if message.complete else STOPPED_BODY, "pickle"
        else:
            body = encode_json(message)
        digest = "blake3:" + blake3.blake3(body).hexdigest()
        self.send(Outgoing(type(message), encoding, body, digest), REPLY_PACE)

    def send(
        self,
        frame: Outgoing,
        pace: Pace,
        unwanted: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Send a frame, on record; ``unwanted`` is :func:`~flserver.network.transport.send_frame`'s.

        Raises ConnectionLost.
        """
        self.send_rest(self.begin(frame), pace, unwanted)

    def begin(self, frame: Outgoing) -> Sending:
        """It is the frame's turn: ``send_at_once`` may follow, ``send_rest`` must where that did not do."""
        self.conversation.send(frame.kind)
        return Sending(frame)

    def send_at_once(self, sending: Sending) -> bool:
        """Send a frame, on record, if the system takes all of it at once. Raises nothing of the peer's."""
        sending.before_last()
        if not send_at_once(self.channel, sending.frame.body, sending.progress):
            sending.not_all()
            return False
        sending.sent()
        self._put_on_record(sending, None)
        return True

    def send_rest(self, sending: Sending, pace: Pace, unwanted: Callable[[], str | None] = lambda: None) -> None:
        """Send what is left of a frame, on record. Raises ConnectionLost."""
        failure = None
        try:
            body, progress = sending.frame.body, sending.progress
            send_frame(self.channel, body, pace, sending.before_last, progress, unwanted)
            sending.sent()
        except ConnectionLost as error:
            failure = self.because(error)
            raise
        except Exception as error:
            failure = f"server error: {one_line(error)}"
            raise
        finally:
            self._put_on_record(sending, failure)

    def _put_on_record(self, sending: Sending, failure: str | None) -> None:
        seconds = monotonic() - sending.started
        self.record.sent(
            sending.frame, bytes=sending.progress.bytes, seconds=seconds, sent_at=sending.sent_at, failure=failure
        )
