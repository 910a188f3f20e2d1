"""What an accepted connection sends, and what is on record of it."""

import json
import pickle
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import blake3
import pytest

from flserver import events as e
from flserver.clock import monotonic
from flserver.errors import ConnectionLost, FrameRefused, HandshakeRefused, MessageRefused
from flserver.network.channel import Channel
from flserver.network.connection import AcceptedConnection
from flserver.network.record import ConnectionRecord, Outgoing
from flserver.network.transport import LAST_PIECE, Pace
from flserver.rounds.seats import SentModel
from flserver.wire.messages import Error, Finished, GlobalModel, Success
from flserver.wire.protocol import Conversation, Role, State
from tests.network.frames import SHORT, framed, pickle_body
from tests.network.served import PEER, Network
from tests.patience import PATIENCE


@dataclass
class Unserved:
    """A connection that nobody serves, the trainer's end of it, and what was sent on record."""

    connection: AcceptedConnection
    trainer: socket.socket
    network: Network

    def at(self, state: State) -> "Unserved":
        self.connection.conversation.state = state
        return self

    def sent(self) -> e.MessageSent:
        (event,) = self.network.recorder.events
        assert isinstance(event, e.MessageSent)
        return event

    def came(self, size: int) -> bytes:
        return self.trainer.recv(size, socket.MSG_WAITALL)


@pytest.fixture
def line(network: Network) -> Iterator[Unserved]:
    ours, trainer = socket.socketpair()
    trainer.settimeout(PATIENCE)
    record = ConnectionRecord(network.recorder, network.strangers, 7, network.context.message_ids)
    record.client_id = "a"
    conversation = Conversation(Role.SERVER, json_limit=100, pickle_limit=100)
    connection = AcceptedConnection(network.context, Channel(ours), conversation, record, PEER, monotonic())
    with trainer:
        yield Unserved(connection, trainer, network)
        connection.channel.close()


@pytest.mark.parametrize(
    ("message", "state", "encoding"),
    [
        (Success(msg="come in"), State.ASKED, "json"),
        (Error(msg="stay out"), State.OPENED, "json"),
        (Error(msg="stay out"), State.ASKED, "json"),
        (Finished(), State.JOINED, "pickle"),
    ],
)
def test_a_reply_is_one_frame_and_one_row(
    line: Unserved, message: Success | Error | Finished, state: State, encoding: str
) -> None:
    line.at(state).connection.reply(message)
    sent = line.sent()
    frame = line.came(sent.bytes)
    body = frame[8:]
    assert frame == framed(body)
    told = json.loads(body) if encoding == "json" else pickle.loads(body)
    assert told == {"header": message.header} | ({} if isinstance(message, Finished) else {"msg": message.msg})
    assert (sent.header, sent.encoding, sent.outcome, sent.reason) == (message.header, encoding, "ok", None)
    assert (sent.connection_id, sent.client_id) == (7, "a")
    assert sent.digest == "blake3:" + blake3.blake3(body).hexdigest()
    assert (sent.round, sent.attempt, sent.sent_at) == (None, None, None)
    assert line.connection.conversation.state is (State.JOINED if isinstance(message, Success) else State.ENDED)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (State.OPENED, Success(msg="")),
        (State.ASKED, Finished()),
        (State.JOINED, Error(msg="")),
        (State.ENDED, Error(msg="")),
    ],
)
def test_what_is_out_of_turn_is_neither_sent_nor_put_on_record(
    line: Unserved, state: State, message: Success | Error | Finished
) -> None:
    with pytest.raises(MessageRefused, match="out of turn"):
        line.at(state).connection.reply(message)
    line.connection.channel.close()
    assert line.trainer.recv(1) == b""
    assert line.network.recorder.events == []


def model(size: int, sent: SentModel | None = None) -> Outgoing:
    return Outgoing(GlobalModel, "pickle", pickle_body(size), "blake3:00", sent)


def test_a_model_knows_its_attempt_and_when_it_was_handed_over(line: Unserved) -> None:
    sent, before = SentModel(round=3, attempt=2), monotonic()
    line.at(State.JOINED).connection.send(model(2 * LAST_PIECE, sent), Pace(whole=PATIENCE))
    event = line.sent()
    assert line.came(event.bytes) == framed(pickle_body(2 * LAST_PIECE))
    assert (event.round, event.attempt, event.outcome, event.digest) == (3, 2, "ok", "blake3:00")
    assert event.sent_at is not None
    assert event.sent_at <= event.at
    assert sent.handed_over_at is not None
    assert sent.fully_sent_at is not None
    assert before <= sent.handed_over_at <= sent.fully_sent_at <= monotonic()
    assert event.seconds >= sent.fully_sent_at - sent.handed_over_at


def test_a_frame_that_does_not_go_out_whole_has_its_row_with_what_went(line: Unserved) -> None:
    sent = SentModel(round=3, attempt=2)
    with pytest.raises(ConnectionLost, match="timed out while sending"):
        line.at(State.JOINED).connection.send(model(4 << 20, sent), Pace(whole=SHORT))
    event = line.sent()
    assert (event.outcome, event.reason) == ("failed", "timed out while sending")
    assert (sent.handed_over_at, sent.fully_sent_at, event.sent_at) == (None, None, None)
    line.connection.channel.close()
    got = sum(len(part) for part in iter(lambda: line.trainer.recv(1 << 16), b""))
    assert 8 < got == event.bytes < 4 << 20


def test_a_peer_that_is_gone_has_its_row(line: Unserved) -> None:
    line.trainer.close()
    with pytest.raises(ConnectionLost, match="connection reset") as caught:
        line.at(State.ASKED).connection.reply(Success(msg=""))
    assert caught.value.cause == "reset"
    event = line.sent()
    assert (event.outcome, event.reason, event.bytes) == ("failed", "connection reset while sending", 0)


def test_a_model_that_nobody_wants_any_more_is_not_sent_on(line: Unserved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flserver.network.transport.LOOK_SECONDS", SHORT)
    with pytest.raises(ConnectionLost, match="newer ones") as caught:
        line.at(State.JOINED).connection.send(model(4 << 20), Pace(whole=PATIENCE), lambda: "there are newer ones")
    assert caught.value.cause == "timeout"
    assert line.sent().reason == "there are newer ones"


def test_a_frame_that_a_defect_of_ours_kept_back_is_not_on_record_as_sent(line: Unserved) -> None:
    no_bytes: Any = None
    with pytest.raises(TypeError):
        line.at(State.JOINED).connection.send(
            Outgoing(GlobalModel, "pickle", no_bytes, "blake3:00"), Pace(whole=PATIENCE)
        )
    assert line.sent().outcome == "failed"
    assert str(line.sent().reason).startswith("server error: TypeError: ")


def test_where_we_cut_a_connection_its_losses_are_ours(line: Unserved) -> None:
    lost, shaken = ConnectionLost("end of file", "closed"), HandshakeRefused("the TLS handshake failed")
    refused = FrameRefused("a frame of length 0")

    def reasons() -> list[str]:
        return [line.connection.because(error) for error in (lost, shaken, refused)]

    assert reasons() == [str(lost), str(shaken), str(refused)]
    line.connection.cut_because = "made room"
    assert reasons() == ["made room", "made room", str(refused)]
