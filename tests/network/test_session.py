"""One connection from hello to goodbye: what is on record of each kind of beginning and end."""

import dataclasses
import gc
import pickle
import socket
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from flserver import events as e
from flserver.errors import Refused, StoreError
from flserver.identity.roster import Member, Roster
from flserver.identity.rules import Identity
from flserver.network.session import Session
from flserver.network.transport import Pace
from flserver.rounds import Registration
from flserver.rounds.exchange import Exchange
from tests.network.frames import SHORT, framed
from tests.network.served import PEER, STRANGER, Line, Network, linear, metadata, update
from tests.patience import PATIENCE, eventually
from tests.recorder import raising

CLIENT_HELLO = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"


def one_message(line: Line) -> e.MessageReceived:
    (message,) = line.of(e.MessageReceived)
    return message


# --- nothing, or nothing whole ---------------------------------------------------------------------------------------


def test_a_connection_that_says_nothing_and_goes_is_a_connection_without_a_message(network: Network) -> None:
    line = network.connect().hang_up().ended()
    assert line.story() == ["opened", "closed, unknown of None: end of file before a frame"]
    (opened,), (closed,) = line.of(e.ConnectionOpened), line.of(e.ConnectionClosed)
    assert (opened.peer_host, opened.peer_port, opened.transport) == (PEER.host, PEER.port, "tcp")
    assert (closed.bytes_in, closed.bytes_out) == (0, 0)


def test_a_connection_that_says_nothing_in_time_is_closed(network_of: Callable[..., Network]) -> None:
    line = network_of(first_frame=SHORT).connect().ended()
    assert line.story() == ["opened", "closed, unknown of None: timed out before a frame"]
    assert line.trainer.recv(1) == b""


@pytest.mark.parametrize("came", [1, 8, 9, 40])
def test_a_message_that_is_cut_has_a_row_of_what_came(network: Network, came: int) -> None:
    line = network.connect()
    line.trainer.sendall(framed(metadata("a"))[:came])
    line.hang_up().ended()
    reason = "end of file in the middle of a frame"
    assert line.story() == ["opened", f"in None failed: {reason}", f"closed, unknown of None: {reason}"]
    message = one_message(line)
    assert (message.bytes, message.digest, message.encoding) == (came, None, "json" if came > 8 else "unknown")
    assert line.of(e.ConnectionClosed)[0].bytes_in == came


def test_a_message_that_stops_has_a_row_too(network_of: Callable[..., Network]) -> None:
    line = network_of(pace=Pace(whole=SHORT)).connect()
    line.trainer.sendall(framed(metadata("a"))[:20])
    reason = "timed out in the middle of a frame"
    assert line.ended().story()[1:] == [f"in None failed: {reason}", f"closed, unknown of None: {reason}"]


def test_how_much_of_the_first_message_came_is_known_while_it_comes(network: Network) -> None:
    line, frame = network.connect(), framed(metadata("a"))
    assert (line.session.silent, line.session.first_bytes) == (True, 0)
    line.trainer.sendall(frame[:20])
    eventually(lambda: line.session.first_bytes == 20)
    assert line.session.silent
    line.trainer.sendall(frame[20:])
    line.answer()
    assert (line.session.silent, line.session.first_bytes) == (False, len(frame))


def test_who_has_sent_a_whole_message_is_not_silent_while_it_is_looked_at(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is silent is cut to make room for others."""
    register, seen = network.exchange.register, []

    def look(*asked: Any) -> Registration:
        seen.append((line.session.silent, line.story()))
        return register(*asked)

    monkeypatch.setattr(network.exchange, "register", look)
    line = network.connect()
    line.send(metadata("a")).answer()
    assert seen == [(False, ["opened"])]


# --- what is no message ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "something else than a frame (the bytes are b'GET / HT')"),
        (b"SSH-2.0-scan\r\n", "something else than a frame (the bytes are b'SSH-2.0-')"),
        (CLIENT_HELLO, "a TLS handshake, on a port without --tls-cert"),
        (bytes.fromhex("00000085ff534d4272000000"), "an SMB request"),
        (bytes.fromhex("0000000804d2162f"), "a PostgreSQL client's request"),
        (b"PROXY TCP4 1.2.3.4 ", "a PROXY protocol header, from an address that is not --trusted-proxy"),
        (bytes(8), "a frame of length 0"),
        (b"\xff" * 8, "a frame of 18446744073709551615 bytes where at most 1048576 may come"),
        (
            (2**20 + 1).to_bytes(8, "big"),
            "a frame of 1048577 bytes where at most 1048576 may come: --max-update-size 1048577 takes it",
        ),
        (
            (4097).to_bytes(8, "big") + b"{",
            "a json body of 4097 bytes where at most 4096 may come: --max-json-size 4097 takes it",
        ),
        (framed(b"hello"), "a body that starts with byte 0x68: neither JSON nor a pickle"),
    ],
)
def test_what_cannot_be_a_message_is_refused_by_its_first_bytes(network: Network, data: bytes, reason: str) -> None:
    """And nobody is answered: what speaks another protocol does not read ours."""
    line = network.connect()
    line.trainer.sendall(data)
    assert line.ended().story() == ["opened", f"in None refused: {reason}", f"closed, unknown of None: {reason}"]
    assert 8 <= one_message(line).bytes <= len(data)
    assert line.ours.sends == []


@pytest.mark.parametrize(
    ("body", "reason", "whose"),
    [
        (b"{}", "a message without a header", "unknown of None"),
        (b"{ ", "a body that starts like JSON and is none", "unknown of None"),
        (metadata("a", data_size=0), "data_size", "register of a"),
        (metadata(None), "id", "register of None"),
        (
            metadata("a").replace(b"METADATA", b"MODEL"),
            "header '<MODEL>' is not one that may come here",
            "unknown of None",
        ),
    ],
)
def test_who_sends_a_registration_that_is_none_is_told_why_once_that_is_durable(
    network: Network, body: bytes, reason: str, whose: str
) -> None:
    line = network.connect().send(body)
    answer = line.answer()
    line.hang_up().ended()
    message = one_message(line)
    assert (answer["header"], message.outcome, message.bytes) == ("<ERROR>", "refused", 8 + len(body))
    assert reason in answer["msg"] == message.reason
    assert message.header == next((h for h in ("<MODEL>", "<METADATA>") if h.encode() in body), None)
    assert message in line.ours.seen_at(b"<ERROR>")
    assert line.story()[2:] == ["out <ERROR> ok", f"closed, {whose}: {message.reason}"]


def test_a_registration_that_is_none_is_put_down_as_its_clients_only_where_it_may_speak_for_it(
    network_of: Callable[..., Network],
) -> None:
    network = network_of(identity=Identity(roster=Roster([Member(client_id="a")])))
    for client_id, whose in (("a", "a"), ("b", None)):
        line = network.connect().send(metadata(client_id, data_size=0))
        line.answer()
        line.hang_up().ended()
        assert (one_message(line).client_id, line.of(e.ConnectionClosed)[0].client_id) == (whose, whose)


@pytest.mark.parametrize("body", [b"\x80\x04N.", pickle.dumps({"header": "<METADATA>", "id": "a"})])
def test_who_sends_a_pickle_that_is_no_update_is_not_answered(network: Network, body: bytes) -> None:
    network.registered("a")
    line = network.connect().send(body).ended()
    assert one_message(line).outcome == "refused"
    assert line.ours.sends == []


# --- a place ---------------------------------------------------------------------------------------------------------


def test_a_connection_without_a_place_is_closed_before_a_byte_of_it_is_read(network: Network) -> None:
    asked: list[tuple[str, bool]] = []

    def no_place(session: Session) -> None:
        asked.append((session.peer.host, session.silent))
        raise Refused("not served: it is full")

    line = network.connect(STRANGER, take_place=no_place)
    line.ended()
    assert asked == [("10.0.0.9", True)]
    assert line.story() == ["opened", "closed, unknown of None: not served: it is full"]
    assert line.trainer.recv(1) == b""


@pytest.mark.parametrize("came", [b"", framed(metadata("a"))[:20]])
def test_a_connection_that_we_cut_says_why_and_not_what_its_thread_saw(network: Network, came: bytes) -> None:
    line = network.connect()
    line.trainer.sendall(came)
    eventually(lambda: line.session.first_bytes == len(came))
    line.session.cut("made room")
    line.session.cut("another reason")
    line.ended()
    assert line.story()[-1] == "closed, unknown of None: made room"
    assert line.story()[1:-1] == (["in None failed: made room"] if came else [])


def test_a_session_that_never_ran_closes_its_socket_and_has_no_row(network: Network) -> None:
    ours, trainer = socket.socketpair()
    trainer.settimeout(PATIENCE)
    with trainer:
        Session(ours, PEER, 77, network.context, lambda session: None).discard()
        assert trainer.recv(1) == b""
    assert network.recorder.events == []


def test_a_session_that_never_ran_is_gone_without_a_search_for_garbage(network: Network) -> None:
    ours, trainer = socket.socketpair()
    gc.disable()
    try:
        session = Session(ours, PEER, 77, network.context, lambda session: None)
        session.discard()
        there = weakref.ref(session)
        del session
        assert there() is None
    finally:
        gc.enable()
        trainer.close()


# --- what we do wrong ------------------------------------------------------------------------------------------------


broken = raising(ZeroDivisionError("ours"))


def test_a_defect_of_ours_gives_the_message_its_row_and_is_raised(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Exchange, "register", broken)
    line = network.connect().send(metadata("a"))
    with pytest.raises(ZeroDivisionError):
        line.ended()
    assert line.story()[1:] == [
        "in None refused: server error: ZeroDivisionError: ours",
        "closed, register of a: server error: ZeroDivisionError: ours",
    ]
    assert one_message(line).digest is not None
    assert line.trainer.recv(1) == b""


def test_a_defect_after_the_message_has_its_row_gives_it_no_second(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Exchange, "next_ticket", broken)
    line = network.connect().send(metadata("a"))
    with pytest.raises(ZeroDivisionError):
        line.ended()
    assert line.story()[1:] == [
        "in <METADATA> ok",
        "registered a",
        "out <SUCCESS> ok",
        "left: other",
        "closed, register of a: server error: ZeroDivisionError: ours",
    ]


def test_a_defect_gives_the_memory_of_the_message_back(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    network.registered("a")
    monkeypatch.setattr(Exchange, "check_upload", broken)
    line = network.connect().send(update("a", linear(200)))
    with pytest.raises(ZeroDivisionError):
        line.ended()
    assert one_message(line).reason == "server error: ZeroDivisionError: ours"
    assert network.memory.in_use == 0


def test_a_connection_that_cannot_be_put_on_record_is_not_read(network: Network) -> None:
    network.recorder.before[e.ConnectionOpened] = raising(StoreError("the disk is full"))
    line = network.connect().ended()
    assert network.recorder.lost[-1].reason == "server stopped"  # type: ignore[attr-defined]
    assert (line.session.first_bytes, line.trainer.recv(1)) == (0, b"")


@pytest.mark.parametrize("kind", [e.MessageReceived, e.ClientRegistered, e.MessageSent])
def test_a_record_that_fails_ends_the_session_as_stopped(network: Network, kind: type[e.Event]) -> None:
    network.recorder.before[kind] = raising(StoreError("the disk is full"))
    line = network.connect().send(metadata("a")).ended()
    lost = network.recorder.lost
    assert isinstance(lost[0], kind)
    assert isinstance(lost[-1], e.ConnectionClosed)
    assert lost[-1].reason == "server stopped"
    assert {event.reason for event in lost if isinstance(event, e.ClientLeft)} <= {"stopped"}
    assert [b"<SUCCESS>" in data for data, _ in line.ours.sends] == [True] * (kind is e.MessageSent)


def test_a_record_that_cannot_be_made_durable_lets_no_answer_out(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network.recorder, "flush", raising(StoreError("the disk is full")))
    for body in (metadata("a"), b"{}"):
        line = network.connect().send(body)
        line.trainer.shutdown(socket.SHUT_WR)
        assert line.ended().ours.sends == []
        assert line.story()[-1].endswith("server stopped")
    assert network.exchange.register("a", 10, PEER).number == 2, "the first one was given back"


# --- before the model is made ----------------------------------------------------------------------------------------


def early(network: Network, body: bytes) -> Line:
    """An upload of a registered client's that comes while the model is being made, when its session waits for it."""
    network.context.known.clear()
    waiting = threading.Event()
    await_model = network.context.await_model

    def noted() -> None:
        waiting.set()
        await_model()

    network.context.await_model = noted  # type: ignore[method-assign]
    line = network.connect().send(body)
    assert waiting.wait(PATIENCE)
    return line


@pytest.mark.parametrize("size", [10, 200], ids=["in its opening", "longer than that"])
def test_a_registration_needs_no_model_and_an_upload_waits_for_it(network: Network, size: int) -> None:
    limits = network.context.limits
    network.context.known.clear()
    network.registered("a")
    line = early(network, update("a", linear(size)))
    assert line.story() == ["opened"]
    network.context.learn(limits, {}, frozenset())
    line.ended()
    assert line.story()[-2:] == [
        "update duplicate: no model of this client is unanswered",
        "closed, upload of a: closed",
    ]


@pytest.mark.parametrize("size", [10, 200], ids=["in its opening", "longer than that"])
def test_what_is_too_long_for_the_model_is_refused_when_that_is_known(network: Network, size: int) -> None:
    limits = dataclasses.replace(network.context.limits, pickle=200)
    network.registered("a")
    line = early(network, update("a", linear(size)))
    network.context.learn(limits, {}, frozenset())
    line.ended()
    (message,) = line.of(e.MessageReceived)
    assert message.outcome == "refused"
    assert "where at most 200 may come: --max-update-size" in str(message.reason)


def test_who_waits_for_a_model_that_never_comes_is_let_go(network: Network) -> None:
    network.registered("a")
    line = early(network, update("a", linear(200)))
    network.context.give_up()
    line.ended()
    assert line.story()[1].endswith("failed: the server stopped before its model was made")


def test_a_stranger_does_not_wait_for_the_model(network: Network) -> None:
    network.registered("a")
    network.context.known.clear()
    line = network.connect(STRANGER).send(update("a", linear(200))).ended()
    assert "refused" in line.story()[1]
