"""A trainer's first connection: asked, on record, told so; then every model as it comes, then goodbye."""

import socket
import threading
from collections.abc import Callable

import pytest

from flserver import events as e
from flserver.events.words import LeftReason
from flserver.identity.roster import Member, Roster
from flserver.identity.rules import Identity
from flserver.network.transport import LAST_PIECE, Pace
from flserver.rounds.endings import Farewell
from flserver.rounds.seats import SentModel
from flserver.wire.messages import FINISHED_BODY, STOPPED_BODY, UNDERSTANDS_GOODBYE
from tests.network.frames import SHORT, framed
from tests.network.served import PEER, STRANGER, Line, Network, linear, metadata, update
from tests.patience import eventually
from tests.recorder import raising


def sent_model(network: Network, client_id: str = "a") -> SentModel:
    sent = network.rounds.participants[client_id].unanswered
    assert sent is not None
    return sent


# --- asked, and told ------------------------------------------------------------------------------------------------


def test_a_registration_is_durable_before_the_trainer_is_told_so(network: Network) -> None:
    line = network.connect().send(metadata(3, 1400, info={"epochs": 8}))
    assert line.answer() == {"header": "<SUCCESS>", "msg": "Registered as client 3", "run": "night"}
    opened, message, registered = line.ours.seen_at(b"<SUCCESS>")
    assert isinstance(opened, e.ConnectionOpened)
    assert (message.header, message.outcome, message.client_id) == ("<METADATA>", "ok", "3")
    assert isinstance(registered, e.ClientRegistered)
    assert (registered.client_id, registered.data_size, registered.info) == ("3", 1400, {"epochs": 8})
    assert (registered.registration, registered.rejoined, registered.identity) == (1, False, "claimed")


def test_a_trainer_takes_part_only_after_it_was_told_so(network: Network) -> None:
    line = network.connect(look=lambda: network.rounds.invitable()).send(metadata("a"))
    network.admitted("a", line)
    assert line.ours.seen_at(b"<SUCCESS>") == []
    assert [participant.client_id for participant in network.rounds.invitable()] == ["a"]


def test_a_registration_names_the_label_that_the_roster_has(network_of: Callable[..., Network]) -> None:
    network = network_of(identity=Identity(roster=Roster([Member(client_id="a", label="Lund")])))
    assert network.registered("a").of(e.ClientRegistered)[0].label == "Lund"


def test_a_registration_that_the_rules_refuse_is_told_why_once_that_is_durable(network: Network) -> None:
    network.registered("a")
    line = network.connect().send(metadata("a"))
    why = "Client a is registered already, and its connection is alive"
    assert line.answer() == {"header": "<ERROR>", "msg": why}
    message = line.ours.seen_at(b"<ERROR>")[-1]
    assert (message.header, message.outcome, message.reason) == ("<METADATA>", "refused", why)
    assert line.ended().story() == [
        "opened",
        f"in <METADATA> refused: {why}",
        "out <ERROR> ok",
        f"closed, register of a: {why}",
    ]
    assert line.trainer.recv(1) == b""


def test_who_claims_anothers_id_is_told_why_and_is_not_put_down_as_that_client(network: Network) -> None:
    network.registered("a")
    line = network.connect(STRANGER).send(metadata("a"))
    why = "client a registered from another address before"
    assert line.answer() == {"header": "<ERROR>", "msg": why}
    (message,) = line.of(e.MessageReceived)
    assert message in line.ours.seen_at(b"<ERROR>")
    assert message.client_id is None
    assert line.ended().story()[1:] == [
        f"in <METADATA> refused: {why}",
        "out <ERROR> ok",
        f"closed, register of None: {why}",
    ]


def test_a_reservation_that_cannot_be_put_on_record_is_given_back(network: Network) -> None:
    network.recorder.before[e.ClientRegistered] = raising(ZeroDivisionError("ours"))
    line = network.connect().send(metadata("a"))
    with pytest.raises(ZeroDivisionError):
        line.ended()
    assert line.story()[1:] == [
        "in <METADATA> ok",
        "closed, register of a: server error: ZeroDivisionError: ours",
    ]
    assert line.ours.sends == []
    assert network.exchange.register("a", 10, PEER).number == 2


def test_a_trainer_that_is_gone_before_it_is_told_leaves_again(network: Network) -> None:
    line = network.connect()
    network.recorder.before[e.ClientRegistered] = line.trainer.close
    line.send(metadata("a")).ended()
    assert line.story()[3:] == [
        "out <SUCCESS> failed: connection reset while sending",
        "left: reset",
        "closed, register of a: connection reset while sending",
    ]
    assert network.registered("a").of(e.ClientRegistered)[0].rejoined


# --- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "last_size", "sends"), [(40, None, 1), (400, LAST_PIECE, 2)], ids=["small", "large"])
def test_a_model_is_handed_over_just_before_its_last_bytes_go(
    network_of: Callable[..., Network], size: int, last_size: int | None, sends: int
) -> None:
    network = network_of(module=linear(size))

    def handed_over_at() -> float | None:
        participant = network.rounds.participants.get("a")
        return participant.unanswered.handed_over_at if participant and participant.unanswered else None

    line = network.registered("a", look=handed_over_at)
    network.await_sessions()
    network.begin(round=3, number=2)
    body = line.receive()
    assert body == bytes(network.buffers.render(network.exchange.model.state).body)
    _, said = network.recorder.wait_for(e.MessageSent, count=2)
    sent, (*before, (last_bytes, last)) = sent_model(network), line.ours.sends
    assert len(before) >= sends, "the answer, then all but the end of the model"
    assert {seen for _, seen in before} == {None}
    assert (last, len(last_bytes)) == (sent.handed_over_at, last_size or 8 + len(body))
    assert last is not None
    assert (said.header, said.round, said.attempt, said.bytes) == ("<MODEL>", 3, 2, 8 + len(body))
    assert said.outcome == "ok"
    assert said.sent_at is not None
    assert sent.fully_sent_at is not None
    assert sent.fully_sent_at >= last


def test_the_bell_wakes_a_trainer_that_waits_and_each_model_goes_out_once(network: Network) -> None:
    lines = [network.registered(client_id) for client_id in "abc"]
    for round in (1, 2):
        attempt = network.begin(round)
        for line in lines:
            assert line.message()["header"] == "<MODEL>"
        network.recorder.wait_for(e.MessageSent, 3 + 3 * round)
        network.exchange.roster_changed()  # rings although there is nothing new
        for client_id in "abc":
            network.uploaded(client_id, linear(value=round))
        network.exchange.close_attempt(attempt).updates.release()
    network.exchange.finish(Farewell("finished"))
    for line in lines:
        assert line.receive() == FINISHED_BODY
        assert [told for told in line.ended().story() if "<MODEL>" in told] == ["out <MODEL> ok"] * 2


def test_a_small_model_is_sent_by_who_publishes_it_and_wakes_no_session(network: Network) -> None:
    line = network.registered("a", look=threading.current_thread)
    network.await_sessions()
    network.begin()
    assert line.message()["header"] == "<MODEL>"
    (_, thread) = line.ours.sends[-1]
    assert thread is threading.current_thread()
    assert network.recorder.of(e.MessageSent)[-1].header == "<MODEL>", "on record when it is published"


def test_who_publishes_a_model_waits_for_nobody_and_the_session_sends_what_is_left(
    network_of: Callable[..., Network],
) -> None:
    network = network_of(module=linear(200))
    line, next_one = network.registered("a", look=threading.current_thread), network.registered("b")
    line.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    network.await_sessions()
    network.begin()
    sent = sent_model(network)
    assert (line.ours.sends[1][1], sent.handed_over_at) == (threading.current_thread(), None)
    assert next_one.message()["header"] == "<MODEL>"
    body = line.receive()
    assert body == bytes(network.buffers.render(network.exchange.model.state).body)
    eventually(lambda: sent.fully_sent_at is not None)
    assert line.ours.sends[-1][1] is not threading.current_thread()
    eventually(lambda: line.of(e.MessageSent)[-1].header == "<MODEL>")
    assert line.of(e.MessageSent)[-1].bytes == 8 + len(body)


def test_a_bell_that_was_heard_is_quiet_again(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    next_ticket, asked = network.exchange.next_ticket, []
    monkeypatch.setattr(network.exchange, "next_ticket", lambda whose: asked.append(whose) or next_ticket(whose))
    network.registered("a")
    eventually(lambda: asked)
    network.exchange.roster_changed()
    eventually(lambda: asked[1:])
    threading.Event().wait(0.1)
    assert len(asked) == 2, "it waits again"


def test_a_bell_never_keeps_who_rings_it(network_of: Callable[..., Network]) -> None:
    """Neither when its trainer is too slow to hear it, nor when it is gone: bells are rung after the lock is let go."""
    network = network_of(module=linear(400))
    line = network.registered("a")
    line.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    network.begin()
    line.exactly(8)
    for _ in range(2000):  # more than the bell holds
        network.exchange.roster_changed()
    ((ring, _),) = network.exchange._bells.values()
    line.hang_up().ended()
    ring()


def test_the_last_buffer_is_free_again_whatever_becomes_of_the_model(network_of: Callable[..., Network]) -> None:
    network = network_of(module=linear(400))
    reads, goes = network.registered("a"), network.registered("b")
    goes.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    network.begin()
    reads.receive()
    goes.exactly(8)
    broadcast = network.buffers.render(network.exchange.model.state)
    assert not broadcast.idle
    goes.hang_up().ended()
    eventually(lambda: broadcast.idle)
    assert goes.story()[4:] == [
        "out <MODEL> failed: connection reset while sending",
        "left: reset",
        "closed, register of b: connection reset while sending",
    ]
    (failed,) = (told for told in goes.of(e.MessageSent) if told.outcome == "failed")
    assert 8 <= failed.bytes < len(broadcast.body)
    assert failed.sent_at is None
    assert sent_model(network, "b").handed_over_at is None


def test_a_trainer_that_reads_so_slowly_that_its_buffer_is_needed_is_let_go(
    network_of: Callable[..., Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flserver.network.transport.LOOK_SECONDS", SHORT)
    network = network_of(module=linear(400))
    line = network.registered("a")
    line.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    network.begin()
    network.buffers.render(network.exchange.model.state).revoked = True
    line.ended()
    why = "read its model too slowly: newer ones need its memory"
    assert line.story()[4:] == [f"out <MODEL> failed: {why}", "left: timeout", f"closed, register of a: {why}"]


def test_a_trainer_has_the_time_of_a_whole_frame_for_its_model(network_of: Callable[..., Network]) -> None:
    network = network_of(module=linear(400), pace=Pace(whole=SHORT))
    line = network.registered("a")
    line.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    network.begin()
    line.ended()
    assert line.story()[4:6] == ["out <MODEL> failed: timed out while sending", "left: timeout"]


# --- the end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reason", "goodbye"), [("finished", FINISHED_BODY), ("stopped", STOPPED_BODY)])
def test_the_farewell_is_finished_and_then_the_end(network: Network, reason: LeftReason, goodbye: bytes) -> None:
    waits = network.registered("a")
    network.exchange.finish(Farewell(reason))
    assert waits.receive() == goodbye
    assert waits.trainer.recv(1) == b""
    assert waits.ended().story()[4:] == ["out <FINISHED> ok", f"left: {reason}", f"closed, register of a: {reason}"]


def test_who_would_take_a_stop_for_the_end_is_cut_off_instead_where_that_is_wanted(
    network_of: Callable[..., Network],
) -> None:
    network = network_of(goodbye="close")
    unchanged = network.registered("a")
    ours = network.admitted("b", network.connect().send(metadata("b", info={UNDERSTANDS_GOODBYE: True})))
    network.exchange.finish(Farewell("stopped"))
    assert ours.receive() == STOPPED_BODY
    assert unchanged.trainer.recv(1) == b""
    assert unchanged.ended().story()[4:] == ["left: stopped", "closed, register of a: stopped"]


def test_at_the_runs_end_nobody_is_cut_off(network_of: Callable[..., Network]) -> None:
    network = network_of(goodbye="close")
    unchanged = network.registered("a")
    network.exchange.finish(Farewell("finished"))
    assert unchanged.receive() == FINISHED_BODY


def test_a_trainer_that_is_off_the_roster_is_let_go(network_of: Callable[..., Network]) -> None:
    identity = Identity(roster=Roster([Member(client_id="a"), Member(client_id="b")]))
    network = network_of(identity=identity)
    stays, goes = network.registered("a"), network.registered("b")
    identity.roster = Roster([Member(client_id="a")])
    network.exchange.roster_changed()
    assert goes.receive() == FINISHED_BODY
    assert goes.ended().story()[-2:] == ["left: other", "closed, register of b: other"]
    network.begin()
    assert stays.message()["header"] == "<MODEL>"


def test_the_end_of_file_is_a_drop_out_at_once(network: Network) -> None:
    line, other = network.registered("a"), network.registered("b")
    attempt = network.begin()
    line.receive()
    other.receive()
    line.hang_up().ended()
    assert line.story()[5:] == ["left: closed", "closed, register of a: the trainer's connection ended: closed"]
    assert [seat.client_id for seat in network.rounds.waited_for()] == ["b"]
    assert attempt.seats["a"].left


def test_a_reset_is_told_from_an_end(network: Network) -> None:
    line = network.connect().send(metadata("a"))
    eventually(lambda: network.rounds.participants["a"].live if "a" in network.rounds.participants else False)
    line.hang_up().ended()  # with <SUCCESS> unread: what such a system sends is a reset
    assert line.story()[4:] == ["left: reset", "closed, register of a: the trainer's connection ended: reset"]


@pytest.mark.parametrize(
    ("speech", "size"),
    [
        (framed(metadata("a")), 8),
        (framed(update("a", linear())), 8),
        (bytes(8), 8),
        (b"\0\0\0", 3),
    ],
    ids=["a registration", "an update", "nothing", "half a length"],
)
def test_a_registered_trainer_that_speaks_out_of_turn_is_let_go(network: Network, speech: bytes, size: int) -> None:
    line = network.registered("a")
    line.trainer.sendall(speech)
    line.trainer.shutdown(socket.SHUT_WR)
    why = "a registered trainer sent something on its first connection"
    assert line.ended().story()[4:] == [
        f"in None refused: {why}",
        "left: protocol",
        f"closed, register of a: {why}",
    ]
    assert line.of(e.MessageReceived)[1].bytes == size
    assert network.recorder.of(e.UpdateReceived) == []


def test_what_comes_right_behind_a_registration_is_out_of_turn_too(network: Network) -> None:
    line: Line = network.connect(sent=2 * framed(metadata("a")))
    assert line.answer()["header"] == "<SUCCESS>"
    assert line.ended().story()[5:6] == ["left: protocol"]


@pytest.mark.parametrize("sending", [False, True])
def test_a_registered_trainer_that_we_cut_is_no_drop_out(network_of: Callable[..., Network], sending: bool) -> None:
    network = network_of(module=linear(400))
    line = network.registered("a")
    if sending:
        line.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        network.begin()
        line.exactly(8)
    line.session.cut("the server stopped")
    line.ended()
    assert line.story()[4:] == [
        *["out <MODEL> failed: the server stopped"] * sending,
        "left: stopped",
        "closed, register of a: the server stopped",
    ]
