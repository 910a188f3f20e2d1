"""What goes on record of one connection: that it opened, every message in and out, what came of it, how it ended."""

import contextlib
from itertools import count

import blake3

from flserver import events
from flserver.aggregation.checks import Inspection
from flserver.clock import monotonic, utc_now
from flserver.errors import ConnectionLost, StoreError
from flserver.events.bus import Bus
from flserver.events.words import Encoding, IdentityKind, LeftReason, Outcome, Purpose
from flserver.identity.peer import Peer
from flserver.network.channel import Channel
from flserver.network.transport import Pace, Progress, Received, send_frame
from flserver.rounds import Registration, Verdict
from flserver.rounds.exchange import Submission, Ticket
from flserver.wire.messages import FINISHED_BODY, Error, Finished, Metadata, Success, Update, encode_json
from flserver.wire.protocol import Connection


class Correspondence:
    """Emits the events of one connection. ``message_ids`` gives numbers unique in the database.

    ``purpose`` and ``client_id`` are set as soon as the first message tells.
    """

    def __init__(self, bus: Bus, connection_id: int, message_ids: "count[int]") -> None:
        self._bus = bus
        self._message_ids = message_ids
        self.connection_id = connection_id
        self.purpose: Purpose = "unknown"
        self.client_id: str | None = None
        self.messages_in = 0
        self._bytes_in = self._bytes_out = 0

    def opened(self, peer: Peer) -> None:
        self._bus.emit(
            events.ConnectionOpened(
                connection_id=self.connection_id, peer_host=peer.host, peer_port=peer.port, transport=peer.transport
            )
        )

    def identified(self, peer: Peer) -> None:
        """A forwarder, or TLS, told who the peer is."""
        certificate = peer.certificate
        self._bus.emit(
            events.PeerIdentified(
                connection_id=self.connection_id,
                peer_host=peer.host,
                peer_port=peer.port,
                proxy_host=peer.proxy_host,
                transport=peer.transport,
                certificate_subject=certificate.subject if certificate else None,
                certificate_fingerprint=certificate.fingerprint if certificate else None,
            )
        )

    def count_bytes(self, count: int) -> None:
        """Bytes came in that are no message's."""
        self._bytes_in += count

    def not_begun(self, outcome: Outcome, reason: str) -> None:
        """What came before the first frame, ``count_bytes`` of it, was not what has to come there."""
        if self._bytes_in or outcome == "refused":
            self._message_received(utc_now(), None, None, "unknown", self._bytes_in, None, 0.0, outcome, reason)

    def closed(self, reason: str) -> None:
        with contextlib.suppress(StoreError):  # the server is stopping because of it
            self._bus.emit(
                events.ConnectionClosed(
                    connection_id=self.connection_id,
                    purpose=self.purpose,
                    client_id=self.client_id,
                    reason=reason,
                    bytes_in=self._bytes_in,
                    bytes_out=self._bytes_out,
                )
            )

    def received(
        self,
        frame: Received,
        *,
        header: str | None,
        round: int | None = None,
        outcome: Outcome = "ok",
        reason: str | None = None,
    ) -> int:
        """A frame came in, as far as it came. Returns its message_id."""
        self._bytes_in += frame.bytes
        at, encoding = frame.ended_at_utc, frame.reader.encoding
        return self._message_received(
            at, header, round, encoding, frame.bytes, frame.digest, frame.seconds, outcome, reason
        )

    def _message_received(
        self,
        at: str,
        header: str | None,
        round: int | None,
        encoding: Encoding,
        bytes: int,
        digest: str | None,
        seconds: float,
        outcome: Outcome,
        reason: str | None,
    ) -> int:
        message_id = next(self._message_ids)
        self.messages_in += 1
        self._bus.emit(
            events.MessageReceived(
                at=at,
                message_id=message_id,
                connection_id=self.connection_id,
                client_id=self.client_id,
                round=round,
                header=header,
                encoding=encoding,
                bytes=bytes,
                digest=digest,
                seconds=seconds,
                outcome=outcome,
                reason=reason,
            )
        )
        return message_id

    def sent(
        self,
        *,
        header: str,
        encoding: Encoding,
        bytes: int,
        digest: str,
        seconds: float,
        failure: str | None,
        ticket: Ticket | None = None,
        sent_at: str | None = None,
    ) -> None:
        """A frame went out, or failed to; ``ticket`` and ``sent_at`` are a model's."""
        self._bytes_out += bytes
        self._bus.emit(
            events.MessageSent(
                message_id=next(self._message_ids),
                connection_id=self.connection_id,
                client_id=self.client_id,
                round=ticket.round if ticket else None,
                attempt=ticket.attempt if ticket else None,
                header=header,
                encoding=encoding,
                bytes=bytes,
                digest=digest,
                seconds=seconds,
                sent_at=sent_at,
                outcome="ok" if failure is None else "failed",
                reason=failure,
            )
        )

    def update(
        self, frame: Received, submission: Submission, inspection: Inspection, verdict: Verdict, identity: IdentityKind
    ) -> None:
        """A complete upload came in, and this is what was decided of it."""
        answers, waited = verdict.answers, None
        if answers is not None and answers.handed_over_at is not None and frame.started_at is not None:
            waited = max(0.0, frame.started_at - answers.handed_over_at)
        message_id = self.received(frame, header=Update.header, round=answers.round if answers else None)
        self._bus.emit(
            events.UpdateReceived(
                at=frame.ended_at_utc,
                update_id=submission.update_id,
                message_id=message_id,
                connection_id=self.connection_id,
                client_id=submission.client_id,
                answers_round=answers.round if answers else None,
                answers_attempt=answers.attempt if answers else None,
                arrived_round=verdict.arrived_round,
                decision=verdict.decision,
                reason=verdict.reason,
                update_digest=inspection.digest,
                data_size=verdict.data_size,
                bytes=frame.bytes,
                wait_seconds=waited,
                upload_seconds=frame.seconds,
                # The model that a late or unasked-for update started from is not at hand any more.
                update_norm=None if verdict.decision in ("late", "duplicate") else inspection.norm,
                identity=identity,
                metrics=tuple(
                    events.ClientMetric(name=m.name, measured_on=m.measured_on, value=m.value)
                    for m in submission.metrics
                ),
            )
        )

    def registered(
        self, metadata: Metadata, registration: Registration, identity: IdentityKind, label: str | None
    ) -> None:
        """The connection's client was admitted."""
        self._bus.emit(
            events.ClientRegistered(
                client_id=registration.client_id,
                registration=registration.number,
                connection_id=self.connection_id,
                identity=identity,
                label=label,
                data_size=metadata.data_size,
                info=metadata.info,
                rejoined=registration.rejoined,
            )
        )

    def left(self, registration: Registration, reason: LeftReason) -> None:
        """The registration ended."""
        with contextlib.suppress(StoreError):  # the server is stopping because of it
            self._bus.emit(
                events.ClientLeft(
                    client_id=registration.client_id,
                    registration=registration.number,
                    connection_id=self.connection_id,
                    reason=reason,
                )
            )


GOODBYE = Pace(whole=5.0)  # for a small frame to a peer that may not be reading


def answer(
    channel: Channel, connection: Connection, record: Correspondence, message: Success | Error | Finished
) -> None:
    """Send a small message, on record."""
    encoding: Encoding
    body, encoding = (FINISHED_BODY, "pickle") if isinstance(message, Finished) else (encode_json(message), "json")
    started, failure, progress = monotonic(), None, Progress()
    connection.send(type(message))
    try:
        send_frame(channel, body, GOODBYE, progress=progress)
    except ConnectionLost as error:
        failure = str(error)
        raise
    finally:
        record.sent(
            header=message.header,
            encoding=encoding,
            bytes=progress.bytes,
            digest="blake3:" + blake3.blake3(body).hexdigest(),
            seconds=monotonic() - started,
            failure=failure,
        )
