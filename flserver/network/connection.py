"""One accepted connection: its socket, where its conversation stands, and what of it goes on record."""

from collections.abc import Callable
from dataclasses import dataclass

import blake3

from flserver.clock import monotonic, utc_now
from flserver.errors import ConnectionLost
from flserver.events.words import Encoding
from flserver.identity.peer import Peer
from flserver.network.channel import Channel
from flserver.network.context import Context
from flserver.network.record import ConnectionRecord, Outgoing
from flserver.network.transport import Pace, Progress, send_frame
from flserver.wire.messages import FINISHED_BODY, STOPPED_BODY, Error, Finished, Message, Success, encode_json
from flserver.wire.protocol import Conversation

REPLY_PACE = Pace(whole=5.0)  # for a small frame to a peer that may not be reading


@dataclass
class AcceptedConnection:
    """What a session works with. ``peer`` is told more exactly once a forwarder, or TLS, has said who it is;
    ``accepted_at`` is monotonic."""

    context: Context
    channel: Channel
    conversation: Conversation
    record: ConnectionRecord
    peer: Peer
    accepted_at: float

    def reply(self, message: Success | Error | Finished) -> None:
        """Send a small message, on record. Raises ConnectionLost."""
        encoding: Encoding = "json"
        if isinstance(message, Finished):
            body, encoding = FINISHED_BODY if message.complete else STOPPED_BODY, "pickle"
        else:
            body = encode_json(message)
        digest = "blake3:" + blake3.blake3(body).hexdigest()
        self.send(type(message), Outgoing(message.header, encoding, body, digest), REPLY_PACE)

    def send(
        self,
        kind: type[Message],
        frame: Outgoing,
        pace: Pace,
        unwanted: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Send a frame, on record; ``unwanted`` is :func:`~flserver.network.transport.send_frame`'s.

        Raises ConnectionLost.
        """
        started, failure, sent_at, progress = monotonic(), None, None, Progress()

        def before_last() -> None:
            nonlocal sent_at
            if frame.sent is not None:
                frame.sent.handed_over_at, sent_at = monotonic(), utc_now()

        self.conversation.send(kind)
        try:
            send_frame(self.channel, frame.body, pace, before_last, progress, unwanted)
            if frame.sent is not None:
                frame.sent.fully_sent_at = monotonic()
        except ConnectionLost as error:
            failure = str(error)
            raise
        finally:
            self.record.sent(
                frame, bytes=progress.bytes, seconds=monotonic() - started, sent_at=sent_at, failure=failure
            )
