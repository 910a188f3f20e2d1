"""What goes on record of one connection: that it opened, every message in and out, what came of it, how it ended."""

import contextlib
from collections.abc import Iterator

from flserver import events
from flserver.errors import StoreError
from flserver.events.bus import Recorder
from flserver.events.words import Encoding, IdentityKind, LeftReason, Outcome, Purpose, StrangerReason
from flserver.frozen import frozen
from flserver.identity.peer import Peer
from flserver.models.retention import comparable
from flserver.network.kept import joined, kept_fields, kept_metrics
from flserver.network.rows import Rows
from flserver.network.strangers import Strangers
from flserver.network.transport import Received
from flserver.rounds import Registration, SentModel, Verdict
from flserver.rounds.updates import Submission
from flserver.wire.messages import Message, Metadata, Update

FIRST_TIMES = 8  # registrations of a client that go first where the record is crowded: who comes ever again waits


@frozen()
class Outgoing:
    """A frame to be sent. ``digest`` is that of its body; ``model`` is set for a <MODEL>: the one on its way."""

    kind: type[Message]
    encoding: Encoding
    body: bytes | memoryview
    digest: str
    model: SentModel | None = None


class ConnectionRecord:
    """Emits the events of one connection, as ``rows`` lets them. ``message_ids`` gives numbers unique in the database.

    ``purpose`` and ``client_id`` are set as soon as the first message tells; ``inherited_from``, before all, is its
    number with the server before.
    """

    def __init__(
        self, recorder: Recorder, strangers: Strangers, connection_id: int, message_ids: Iterator[int]
    ) -> None:
        self._rows = Rows(recorder, strangers)
        self._host = ""
        self._message_ids = message_ids
        self.connection_id = connection_id
        self.purpose: Purpose = "unknown"
        self.client_id: str | None = None
        self.inherited_from: int | None = None
        self.messages_in = 0
        self._bytes_in = self._bytes_out = 0

    # --- the connection ----------------------------------------------------------------------------------------------

    def opened(self, peer: Peer, *, behind: bool = False) -> None:
        """A peer connected: one that is known, or a forwarder that will say who is ``behind`` it."""
        self._host = peer.host
        self._rows.open(
            events.ConnectionOpened(
                connection_id=self.connection_id,
                peer_host=peer.host,
                peer_port=peer.port,
                transport=peer.transport,
                inherited_from=self.inherited_from,
            )
        )
        if not behind:
            self._rows.come_from(peer.host)

    def identified(self, peer: Peer) -> None:
        """A forwarder, or TLS, told who the peer is."""
        certificate, self._host = peer.certificate, peer.host
        self._rows.emit(
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
        self._rows.come_from(peer.host)

    def come_from(self, peer: Peer) -> None:
        """A forwarder speaks for nobody: the peer is itself."""
        self._rows.come_from(peer.host)

    def make_durable(self, why: StrangerReason) -> None:
        """What came is durable, in whatever form it goes on record. Raises StoreError."""
        self._rows.make_durable(why, self.purpose)

    def closed(self, reason: str, why: StrangerReason = "other") -> None:
        """The connection ended; ``why`` is what it is counted under where it took no part."""
        closed = events.ConnectionClosed(
            connection_id=self.connection_id,
            purpose=self.purpose,
            client_id=self.client_id,
            reason=reason,
            bytes_in=self._bytes_in,
            bytes_out=self._bytes_out,
        )
        with contextlib.suppress(StoreError):  # the server is stopping because of it
            self._rows.close(closed, why, self._host)

    # --- messages ----------------------------------------------------------------------------------------------------

    def count_bytes(self, count: int) -> None:
        """Bytes came in that are no message's."""
        self._bytes_in += count

    def not_begun(self, outcome: Outcome, reason: str) -> None:
        """What came before the first frame, ``count_bytes`` of it, was not what has to come there."""
        if not self._bytes_in and outcome != "refused":
            return
        self.messages_in += 1
        self._rows.emit(
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
        self._rows.emit(
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
        self._rows.emit(
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
        self,
        frame: Received | None,
        metadata: Metadata,
        registration: Registration,
        identity: IdentityKind,
        label: str | None,
    ) -> None:
        """The connection's client, which asked for it in ``frame``, or of an earlier server, takes part."""
        self._rows.keep(first=registration.number <= FIRST_TIMES)
        info, of_info = kept_fields("fields of info", metadata.info)
        sent, of_sent = kept_fields("fields", metadata.sent)
        if frame is not None:
            self.received(frame, header=metadata.header, reason=joined(of_info, of_sent))
        self._rows.emit(
            events.ClientRegistered(
                client_id=registration.client_id,
                registration=registration.number,
                connection_id=self.connection_id,
                identity=identity,
                label=label,
                data_size=metadata.data_size,
                info=info,
                rejoined=registration.rejoined,
                metadata=sent,
            )
        )

    def left(self, registration: Registration, reason: LeftReason) -> None:
        """The registration ended."""
        with contextlib.suppress(StoreError):  # the server is stopping because of it
            self._rows.emit(
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
        header: str | None = Update.header,
        outcome: Outcome = "ok",
        reason: str | None = None,
    ) -> None:
        """A complete upload came in, and this is what was decided of it. One that answers a model goes first; of one
        that answers nothing the metrics are not kept.

        ``header``, ``outcome`` and ``reason`` are the message's.
        """
        upload, answers, waited = submission.upload, verdict.answers, None
        if answers is not None and answers.handed_over_at is not None and frame.started_at is not None:
            waited = max(0.0, frame.started_at - answers.handed_over_at)
        round = answers.round if answers else None
        # The model that a late or unasked-for update started from is not at hand any more.
        norms = None if verdict.decision in ("late", "duplicate") else upload.norms
        metrics, of_metrics = kept_metrics(submission.metrics) if answers and submission.metrics else ((), None)
        self._rows.keep(first=answers is not None)
        message_id = self.received(
            frame, header=header, round=round, outcome=outcome, reason=joined(reason, of_metrics)
        )
        self._rows.emit(
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
                update_norm=comparable(norms.whole) if norms else None,
                update_cosine=upload.cosine if norms else None,
                parameters_norm=comparable(norms.parameters) if norms else None,
                buffers_norm=comparable(norms.buffers) if norms else None,
                identity=identity,
                metrics=metrics,
            )
        )
