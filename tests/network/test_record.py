"""What goes on record of a connection: every byte counted, every message with a number of its own, nothing twice."""

from itertools import count

import pytest
import torch

from flserver import events as e
from flserver.aggregation.checks import Norms
from flserver.errors import StoreError
from flserver.identity.peer import Certificate, Peer
from flserver.network.record import ConnectionRecord, Outgoing
from flserver.network.strangers import Strangers
from flserver.network.transport import Received
from flserver.rounds import Registration, SentModel, Upload, Verdict
from flserver.rounds.updates import Submission
from flserver.wire.framing import FrameLimits, FrameReader
from flserver.wire.messages import Error, Finished, GlobalModel, Measurement, Metadata
from tests.network.frames import framed
from tests.network.served import PEER, metadata
from tests.recorder import RecordingRecorder, raising

REGISTRATION = Registration("a", 2, rejoined=True)


@pytest.fixture
def recorder() -> RecordingRecorder:
    return RecordingRecorder()


@pytest.fixture
def record(recorder: RecordingRecorder) -> ConnectionRecord:
    return ConnectionRecord(recorder, Strangers(recorder, 100), 7, count(100))


def frame_of(data: bytes, started_at: float | None = 20.0) -> Received:
    """A frame as far as ``data`` goes, that took half a second."""
    frame = Received(FrameReader(FrameLimits(json=4096, pickle=4096)), started_at=started_at, ended_at=20.5)
    frame.ended_at_utc = "2026-01-31T09:00:00.000000Z"
    rest = memoryview(data)
    while rest:
        space = frame.reader.space()
        size = min(len(space), len(rest))
        space[:size] = rest[:size]
        if frame.reader.length is not None:
            frame.hasher.update(rest[:size])
        frame.reader.received(size)
        rest = rest[size:]
    return frame


# --- the connection -------------------------------------------------------------------------------------------------


def test_a_connection_has_its_peer_and_what_the_peer_turned_out_to_be(
    record: ConnectionRecord, recorder: RecordingRecorder
) -> None:
    record.opened(PEER)
    certificate = Certificate(subject="commonName=a", common_name="a", fingerprint="sha256:cc")
    record.identified(Peer(host="10.0.0.7", port=9, proxy_host=PEER.host, transport="tls", certificate=certificate))
    record.identified(PEER)
    opened, known, plain = recorder.events
    assert isinstance(opened, e.ConnectionOpened)
    assert (opened.connection_id, opened.peer_host, opened.peer_port, opened.transport) == (7, PEER.host, 40000, "tcp")
    assert isinstance(known, e.PeerIdentified)
    assert (known.peer_host, known.peer_port, known.proxy_host, known.transport) == ("10.0.0.7", 9, PEER.host, "tls")
    assert (known.certificate_subject, known.certificate_fingerprint) == ("commonName=a", "sha256:cc")
    assert isinstance(plain, e.PeerIdentified)
    assert (plain.certificate_subject, plain.certificate_fingerprint, plain.proxy_host) == (None, None, None)


def test_the_end_of_a_connection_has_all_bytes_and_what_it_was_for(
    record: ConnectionRecord, recorder: RecordingRecorder
) -> None:
    record.count_bytes(50)
    record.received(frame_of(framed(b"{}")), header=None, outcome="refused", reason="no header")
    record.sent(Outgoing(Error, "json", b"", "blake3:00"), bytes=33, seconds=0.0, sent_at=None, failure=None)
    record.sent(Outgoing(Error, "json", b"", "blake3:00"), bytes=3, seconds=0.0, sent_at=None, failure="reset")
    record.purpose, record.client_id = "register", "a"
    record.closed("reset")
    (closed,) = recorder.of(e.ConnectionClosed)
    assert (closed.bytes_in, closed.bytes_out) == (50 + 10, 33 + 3)
    assert (closed.purpose, closed.client_id, closed.reason) == ("register", "a", "reset")


def test_a_record_that_has_failed_does_not_keep_a_connection_from_ending(
    record: ConnectionRecord, recorder: RecordingRecorder
) -> None:
    recorder.before[e.ConnectionOpened] = raising(StoreError("the disk is full"))
    with pytest.raises(StoreError):
        record.opened(PEER)
    record.left(REGISTRATION, "stopped")
    record.closed("server stopped")
    with pytest.raises(StoreError):
        record.received(frame_of(b""), header=None)
    assert recorder.events == []


def test_a_defect_is_not_taken_for_a_record_that_has_failed(
    record: ConnectionRecord, recorder: RecordingRecorder
) -> None:
    recorder.before = {kind: raising(ZeroDivisionError()) for kind in (e.ConnectionClosed, e.ClientLeft)}
    with pytest.raises(ZeroDivisionError):
        record.closed("closed")
    with pytest.raises(ZeroDivisionError):
        record.left(REGISTRATION, "closed")


# --- messages -------------------------------------------------------------------------------------------------------


def test_messages_have_their_numbers_from_one_counter(recorder: RecordingRecorder) -> None:
    numbers = count(5)
    one, other = (
        ConnectionRecord(recorder, Strangers(recorder, 1), connection_id, numbers) for connection_id in (1, 2)
    )
    assert [r.received(frame_of(framed(metadata("a"))), header=None) for r in (one, other, one)] == [5, 6, 7]
    one.sent(Outgoing(Error, "json", b"", "blake3:00"), bytes=1, seconds=0.0, sent_at=None, failure=None)
    assert recorder.of(e.MessageSent)[0].message_id == 8
    assert (one.messages_in, other.messages_in) == (2, 1)
    assert [event.connection_id for event in recorder.of(e.MessageReceived)] == [1, 2, 1]


@pytest.mark.parametrize("came", [0, 5, 8, 20, None])
def test_a_message_has_what_came_of_it(record: ConnectionRecord, recorder: RecordingRecorder, came: int | None) -> None:
    data = framed(metadata("a"))[:came]
    record.client_id = "a"
    record.received(frame_of(data), header="<METADATA>", round=3, outcome="failed", reason="end of file")
    (message,) = recorder.of(e.MessageReceived)
    assert (message.bytes, message.encoding) == (len(data), "json" if len(data) > 8 else "unknown")
    assert (message.digest is None) == (came is not None), "a digest is a whole body's"
    assert (message.header, message.round, message.client_id) == ("<METADATA>", 3, "a")
    assert (message.outcome, message.reason) == ("failed", "end of file")
    assert (message.at, message.seconds) == ("2026-01-31T09:00:00.000000Z", 0.5), "as it ended, not as it was written"


@pytest.mark.parametrize(
    ("came", "outcome", "rows"), [(0, "failed", 0), (0, "refused", 1), (5, "failed", 1), (12, "refused", 1)]
)
def test_what_came_before_the_first_frame_is_a_message_where_it_was_anything(
    record: ConnectionRecord, recorder: RecordingRecorder, came: int, outcome: str, rows: int
) -> None:
    record.count_bytes(came)
    record.not_begun(outcome, "no header")  # type: ignore[arg-type]
    messages = recorder.of(e.MessageReceived)
    assert [(m.bytes, m.outcome, m.reason, m.encoding) for m in messages] == [
        (came, outcome, "no header", "unknown")
    ] * rows
    assert record.messages_in == rows


def test_a_sent_model_has_its_attempt_and_another_frame_none(
    record: ConnectionRecord, recorder: RecordingRecorder
) -> None:
    model = Outgoing(GlobalModel, "pickle", b"", "blake3:01", SentModel(round=3, attempt=2))
    record.sent(model, bytes=1008, seconds=0.25, sent_at="2026-01-31T09:00:01.000000Z", failure=None)
    other = Outgoing(Finished, "pickle", b"", "blake3:02")
    record.sent(other, bytes=4, seconds=0.5, sent_at=None, failure="connection reset")
    one, two = recorder.of(e.MessageSent)
    assert (one.round, one.attempt, one.outcome, one.reason) == (3, 2, "ok", None)
    assert (two.round, two.attempt, two.outcome, two.reason) == (None, None, "failed", "connection reset")
    assert (one.sent_at, two.sent_at) == ("2026-01-31T09:00:01.000000Z", None)
    assert [(m.header, m.bytes, m.digest, m.seconds) for m in (one, two)] == [
        ("<MODEL>", 1008, "blake3:01", 0.25),
        ("<FINISHED>", 4, "blake3:02", 0.5),
    ]


# --- what came of them ----------------------------------------------------------------------------------------------


def test_a_registration_and_its_end(record: ConnectionRecord, recorder: RecordingRecorder) -> None:
    asked = Metadata(client_id="a", data_size=9, info={"x": 1})
    record.registered(frame_of(framed(metadata("a"))), asked, REGISTRATION, "authenticated", "Lund")
    record.left(REGISTRATION, "timeout")
    message, registered, left = recorder.events
    assert isinstance(message, e.MessageReceived)
    assert (message.header, message.outcome, message.reason) == ("<METADATA>", "ok", None)
    assert isinstance(registered, e.ClientRegistered)
    assert (registered.client_id, registered.registration, registered.rejoined) == ("a", 2, True)
    assert (registered.identity, registered.label) == ("authenticated", "Lund")
    assert (registered.data_size, registered.info) == (9, {"x": 1})
    assert isinstance(left, e.ClientLeft)
    assert (left.client_id, left.registration, left.connection_id, left.reason) == ("a", 2, 7, "timeout")


def recorded_update(record: ConnectionRecord, frame: Received, verdict: Verdict) -> None:
    upload = Upload(
        update_id=5, client_id="a", peer=PEER, accepted_at=0.0, digest="blake3:cc", norms=Norms(1.5, 2.0), cosine=0.5
    )
    measured = (Measurement(name="loss", measured_on="trained", value=0.5),)
    submission = Submission(upload, {"w": torch.zeros(1)}, measured, lambda: None)
    record.update(frame, submission, verdict, "claimed")


def verdict_of(decision: str | None, answers: SentModel | None) -> Verdict:
    return Verdict(decision=decision, reason=None, answers=answers, data_size=10, arrived_round=4)  # type: ignore[arg-type]


def test_an_update_has_a_message_and_what_was_decided_of_it(
    record: ConnectionRecord, recorder: RecordingRecorder
) -> None:
    sent = SentModel(round=3, attempt=2, handed_over_at=18.0)
    recorded_update(record, frame_of(framed(b"\x80\x04N.")), verdict_of(None, sent))
    message, update = recorder.events
    assert isinstance(message, e.MessageReceived)
    assert (message.header, message.round, message.outcome) == ("<MODEL>", 3, "ok")
    assert isinstance(update, e.UpdateReceived)
    assert (update.message_id, update.update_id, update.client_id) == (message.message_id, 5, "a")
    assert (update.answers_round, update.answers_attempt, update.arrived_round, update.decision) == (3, 2, 4, None)
    assert (update.wait_seconds, update.upload_seconds, update.bytes) == (2.0, 0.5, 12)
    assert (update.update_digest, update.update_norm, update.data_size) == ("blake3:cc", 2.5, 10)
    assert update.metrics == (e.ClientMetric(name="loss", measured_on="trained", value=0.5),)
    assert update.at == message.at


@pytest.mark.parametrize(
    ("handed_over_at", "started_at", "waited"),
    [(18.0, 20.0, 2.0), (20.25, 20.0, 0.0), (None, 20.0, None), (18.0, None, None)],
)
def test_how_long_an_update_was_waited_for_is_known_or_left_out_and_never_negative(
    record: ConnectionRecord,
    recorder: RecordingRecorder,
    handed_over_at: float | None,
    started_at: float | None,
    waited: float | None,
) -> None:
    sent = SentModel(round=3, attempt=2, handed_over_at=handed_over_at)
    recorded_update(record, frame_of(framed(b"\x80\x04N."), started_at), verdict_of(None, sent))
    assert recorder.of(e.UpdateReceived)[0].wait_seconds == waited


@pytest.mark.parametrize(("decision", "norm"), [(None, 2.5), ("rejected", 2.5), ("late", None), ("duplicate", None)])
def test_an_update_is_measured_only_against_the_model_that_it_started_from(
    record: ConnectionRecord, recorder: RecordingRecorder, decision: str | None, norm: float | None
) -> None:
    answers = None if decision == "duplicate" else SentModel(round=3, attempt=2, handed_over_at=18.0)
    recorded_update(record, frame_of(framed(b"\x80\x04N.")), verdict_of(decision, answers))
    (update,) = recorder.of(e.UpdateReceived)
    assert (update.decision, update.update_norm) == (decision, norm)
    assert update.update_cosine == (None if norm is None else 0.5)
    assert (update.answers_round, update.answers_attempt) == ((3, 2) if answers else (None, None))
    assert (update.wait_seconds is None) == (answers is None)
    assert recorder.of(e.MessageReceived)[0].round == update.answers_round
