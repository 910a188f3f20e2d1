"""What goes on record of one connection: that it opened, every message in and out, what came of it, how it ended."""

import contextlib
from dataclasses import dataclass
from itertools import count

from flserver import events
from flserver.errors import StoreError
from flserver.events.bus import Recorder
from flserver.events.words import Encoding, IdentityKind, LeftReason, Outcome, Purpose
from flserver.identity.peer import Peer
from flserver.network.transport import Received
from flserver.rounds import Registration, SentModel, Verdict
from flserver.rounds.updates import Submission
from flserver.wire.messages import Message, Metadata, Update


@dataclass(frozen=True)
class Outgoing:
    """A frame to be sent. ``digest`` is that of its body; ``model`` is set for a <MODEL>: the one on its way."""

    kind: type[Message]
    encoding: Encoding
    body: bytes | memoryview
    digest: str
    model: SentModel | None = None


class ConnectionRecord:
    """Emits the events of one connection. ``message_ids`` gives numbers unique in the database.

    ``purpose`` and ``client_id`` are set as soon as the first message tells.
    """

    def __init__(self, recorder: Recorder, connection_id: int, message_ids: "count[int]") -> None:
        self._recorder = recorder
        self._message_ids = message_ids
        self.connection_id = connection_id
        self.purpose: Purpose = "unknown"
        self.client_id: str | None = None
        self.messages_in = 0
        self._bytes_in = self._bytes_out = 0

    # --- the connection ----------------------------------------------------------------------------------------------

    def opened(self, peer: Peer) -> None:
        """A peer connected."""
        self._recorder.emit(
            events.ConnectionOpened(
                connection_id=self.connection_id, peer_host=peer.host, peer_port=peer.port, transport=peer.transport
            )
        )

    def identified(self, peer: Peer) -> None:
        """A forwarder, or TLS, told who the peer is."""
        certificate = peer.certificate
        self._recorder.emit(
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

    def closed(self, reason: str) -> None:
        """The connection ended."""
        with contextlib.suppress(StoreError):  # the server is stopping because of it
            self._recorder.emit(
                events.ConnectionClosed(
                    connection_id=self.connection_id,
                    purpose=self.purpose,
                    client_id=self.client_id,
                    reason=reason,
                    bytes_in=self._bytes_in,
                    bytes_out=self._bytes_out,
                )
            )

    # --- messages ----------------------------------------------------------------------------------------------------

    def count_bytes(self, count: int) -> None:
        """Bytes came in that are no message's."""
        self._bytes_in += count

    def not_begun(self, outcome: Outcome, reason: str) -> None:
        """What came before the first frame, ``count_bytes`` of it, was not what has to come there."""
        if not self._bytes_in and outcome != "refused":
            return
        self.messages_in += 1
        self._recorder.emit(
            events.MessageReceived(
                message_id=next(self._message_ids),
                connection_id=self.connection_id,
                client_id=self.client_id,
                round=None,
                header=None,
                encoding="unknown",
                bytes=self._bytes_in,
                digest=None,
                seconds=0.0,
                outcome=outcome,
                reason=reason,
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
        """A frame came in, as far as it came; ``round`` is the one that it answers. Returns its message_id."""
        message_id = next(self._message_ids)
        self.messages_in += 1
        self._bytes_in += frame.bytes
        self._recorder.emit(
            events.MessageReceived(
                at=frame.ended_at_utc,
                message_id=message_id,
                connection_id=self.connection_id,
                client_id=self.client_id,
                round=round,
                header=header,
                encoding=frame.reader.encoding,
                bytes=frame.bytes,
                digest=frame.digest,
                seconds=frame.seconds,
                outcome=outcome,
                reason=reason,
            )
        )
        return message_id

    def sent(self, frame: Outgoing, *, bytes: int, seconds: float, sent_at: str | None, failure: str | None) -> None:
        """A frame went out, or as many ``bytes`` of it before its ``failure``; ``sent_at`` is a model's."""
        self._bytes_out += bytes
        self._recorder.emit(
            events.MessageSent(
                message_id=next(self._message_ids),
                connection_id=self.connection_id,
                client_id=self.client_id,
                round=frame.model.round if frame.model else None,
                attempt=frame.model.attempt if frame.model else None,
                header=frame.kind.header,
                encoding=frame.encoding,
                bytes=bytes,
                digest=frame.digest,
                seconds=seconds,
                sent_at=sent_at,
                outcome="ok" if failure is None else "failed",
                reason=failure,
            )
        )

    # --- what came of them -------------------------------------------------------------------------------------------

    def registered(
        self, metadata: Metadata, registration: Registration, identity: IdentityKind, label: str | None
    ) -> None:
        """The connection's client takes part."""
        self._recorder.emit(
            events.ClientRegistered(
                client_id=registration.client_id,
                registration=registration.number,
                connection_id=self.connection_id,
                identity=identity,
                label=label,
                data_size=metadata.data_size,
                info=metadata.info,
                rejoined=registration.rejoined,
                metadata=metadata.sent,
            )
        )

    def left(self, registration: Registration, reason: LeftReason) -> None:
        """The registration ended."""
        with contextlib.suppress(StoreError):  # the server is stopping because of it
            self._recorder.emit(
                events.ClientLeft(
                    client_id=registration.client_id,
                    registration=registration.number,
                    connection_id=self.connection_id,
                    reason=reason,
                )
            )

    def update(
        self,
        frame: Received,
        submission: Submission,
        verdict: Verdict,
        identity: IdentityKind,
        *,
        norm: float | None = None,
        header: str | None = Update.header,
        outcome: Outcome = "ok",
        reason: str | None = None,
    ) -> None:
        """A complete upload came in, and this is what was decided of it.

        ``norm`` is that of the update, where it has one; ``header``, ``outcome`` and ``reason`` are the message's.
        """
        upload, answers, waited = submission.upload, verdict.answers, None
        if answers is not None and answers.handed_over_at is not None and frame.started_at is not None:
            waited = max(0.0, frame.started_at - answers.handed_over_at)
        round = answers.round if answers else None
        message_id = self.received(frame, header=header, round=round, outcome=outcome, reason=reason)
        self._recorder.emit(
            events.UpdateReceived(
                at=frame.ended_at_utc,
                update_id=upload.update_id,
                message_id=message_id,
                connection_id=self.connection_id,
                client_id=upload.client_id,
                answers_round=round,
                answers_attempt=answers.attempt if answers else None,
                arrived_round=verdict.arrived_round,
                decision=verdict.decision,
                reason=verdict.reason,
                update_digest=upload.digest,
                data_size=verdict.data_size,
                counted_size=verdict.counted_size,
                bytes=frame.bytes,
                wait_seconds=waited,
                upload_seconds=frame.seconds,
                # The model that a late or unasked-for update started from is not at hand any more.
                update_norm=None if verdict.decision in ("late", "duplicate") else norm,
                identity=identity,
                metrics=tuple(
                    events.ClientMetric(name=m.name, measured_on=m.measured_on, value=m.value)
                    for m in submission.metrics
                ),
            )
        )
