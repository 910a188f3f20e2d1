"""The accept loop and the registry of sessions: who is served, who makes room, and that all of it ends."""

import logging
import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from flserver import events as e
from flserver.errors import ConnectionLost, StartError, StoreError
from flserver.network.server import Server
from flserver.rounds.endings import Farewell
from flserver.wire.messages import FINISHED_BODY
from tests.network.frames import framed
from tests.network.port import AWAY, FAR, HOME, Port, ended, made_room
from tests.network.served import Network, linear, metadata, update
from tests.patience import PATIENCE, eventually
from tests.recorder import raising


@pytest.fixture
def port(network: Network) -> Iterator[Port]:
    with Port(network) as port:
        yield port


# --- accepting ------------------------------------------------------------------------------------------------------


def test_each_connection_has_a_number_and_a_session_of_its_own(port: Port) -> None:
    for host in (HOME, AWAY):
        port.connect(host)
    one, two = port.recorder.of(e.ConnectionOpened)
    assert [(o.connection_id, o.peer_host) for o in (one, two)] == [(1, HOME), (2, AWAY)]
    assert {t.name for t in threading.enumerate()} >= {"accept", "session-1", "session-2"}
    assert port.server.accepting


def test_an_accepted_connection_does_not_wait_and_notices_a_dead_machine(port: Port) -> None:
    port.connect()
    (session,) = port.server._served
    sock, timeout = session._channel.sock, port.network.context.limits.peer_timeout
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    if sys.platform == "linux":
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == round(timeout * 1000)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == round(timeout / 3)


class Failing(socket.socket):
    """A listening socket whose first ``accept`` fails."""

    failed = False

    def accept(self) -> tuple[socket.socket, object]:
        if not self.failed:
            self.failed = True
            raise OSError(24, "Too many open files")
        return super().accept()


def test_accepting_goes_on_after_an_error(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    port = Port(network)
    port.listener.socket = Failing(fileno=port.listener.socket.detach())
    with port:
        port.connect()
        assert port.server.accepting
    assert [record.message for record in caplog.records] == ["accept failed: [Errno 24] Too many open files"]


def test_accepting_is_over_once_it_was_stopped(port: Port) -> None:
    address = port.listener.address
    port.server.stop_accepting()
    assert not port.server.accepting
    assert "accept" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, PATIENCE)


# --- threads --------------------------------------------------------------------------------------------------------


def test_a_thread_whose_session_is_over_serves_the_next_one(port: Port) -> None:
    port.connect().close()
    assert port.closed() == [(1, "end of file in the middle of a frame")]
    eventually(lambda: "session-none" in {thread.name for thread in threading.enumerate()})
    port.connect()
    assert [t.name for t in threading.enumerate() if t.name.startswith("session")] == ["session-2"]


def test_where_no_thread_can_be_started_that_peer_is_not_served_and_has_a_row(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", raising(RuntimeError("can't start new thread")))
        peer = port.connect()
        assert port.closed() == [(1, "not served: can't start new thread")]
    assert ended(peer)
    assert port.server._served == {}
    assert port.registered("a")


def test_where_no_thread_can_accept_the_server_does_not_start_and_leaves_none(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "accept":
            raise RuntimeError("can't start new thread")
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    port = Port(network)
    with closing(port.listener), pytest.raises(StartError, match="lets trainers in: can't start new thread"):
        port.server.start()
    assert "strangers" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("threads", [True, False])
def test_a_record_that_has_failed_does_not_end_accepting(
    port: Port, monkeypatch: pytest.MonkeyPatch, threads: bool
) -> None:
    port.recorder.before[e.ConnectionOpened] = raising(StoreError("the disk is full"))
    if not threads:  # then it is the thread that accepts that meets it
        monkeypatch.setattr(threading.Thread, "start", raising(RuntimeError("can't start new thread")))
    peers = [socket.create_connection(port.listener.address, PATIENCE) for _ in range(2)]
    for peer in peers:
        with peer:
            assert ended(peer)
    eventually(lambda: len(port.recorder.lost) >= 2)
    assert port.server.accepting


def test_a_defect_in_one_session_is_logged_and_costs_the_others_nothing(
    port: Port, caplog: pytest.LogCaptureFixture
) -> None:
    port.recorder.before[e.ClientRegistered] = raising(ZeroDivisionError("ours"))
    peer = port.connect(said=framed(metadata("a")))
    assert port.closed() == [(1, "server error: ZeroDivisionError: ours")]
    assert ended(peer)
    eventually(lambda: not port.server._served)
    (record,) = caplog.records
    assert (record.levelno, record.message) == (logging.ERROR, "session 1 failed")
    assert record.exc_info is not None
    port.recorder.before.clear()
    port.registered("a")


# --- who makes room -------------------------------------------------------------------------------------------------


@pytest.fixture
def small(network: Network) -> Iterator[Port]:
    """Room for four, of any address."""
    with Port(network, in_all=4) as port:
        yield port


def test_in_a_full_server_strangers_make_room_before_who_comes_from_where_a_trainer_did(small: Port) -> None:
    small.registered("a", HOME)  # 1
    small.connect(HOME)  # 2
    small.connect(AWAY)  # 3
    small.connect(HOME)  # 4
    small.connect(HOME)  # 5, for which 3 makes room
    assert made_room(small, 1) == [3]
    small.connect(HOME)
    assert made_room(small, 2) == [3, 2], "then the oldest of that address"


def test_among_strangers_it_is_one_of_the_address_that_has_most(small: Port) -> None:
    small.connect(AWAY)
    small.connect(FAR)
    small.connect(FAR)
    small.connect(HOME)
    small.connect(HOME)  # 5: two each are from FAR and HOME
    assert made_room(small, 1) == [2], "the oldest of those"
    small.connect(HOME)
    assert made_room(small, 2) == [2, 4]


def test_who_has_made_room_and_has_not_gone_yet_is_not_asked_again(network: Network) -> None:
    go_on = threading.Event()
    with Port(network, in_all=2) as port:
        one, two = (port.connect(said=b"") for _ in range(2))  # nothing of theirs goes on record in between
        port.recorder.before[e.ConnectionClosed] = lambda: go_on.wait(PATIENCE)
        try:
            port.connect()
            assert ended(one)
            port.connect()
            assert ended(two)
        finally:
            go_on.set()
        assert sorted(made_room(port, 2)) == [1, 2]


def test_of_one_address_it_is_who_has_sent_least(small: Port) -> None:
    for said in (b"\0\0\0", b"\0", b"\0\0", b"\0\0\0\0"):
        small.connect(AWAY, said)
    for number, expected in enumerate((2, 3, 1), 1):
        small.connect(AWAY, b"\0" * 5)
        assert made_room(small, number)[-1] == expected


def test_a_registered_trainer_never_makes_room_and_the_newcomer_is_told_nothing(
    small: Port, caplog: pytest.LogCaptureFixture
) -> None:
    trainers = [small.registered(client_id) for client_id in "abcd"]
    newcomer = small.connect(AWAY)
    full = f"4 connections are open: 4 from {HOME}"
    assert small.closed() == [(5, f"not served: {full}")]
    assert ended(newcomer)
    assert [record.message for record in caplog.records] == [f"no session for {AWAY}: {full}"]
    trainers[0].close()
    small.closed(2)
    eventually(lambda: len(small.server._served) == 3)
    assert small.registered("e")


def test_many_make_room_at_once_where_many_are_served(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flserver.network.server.CUT_IN_TURN", 2)
    with Port(network, in_all=4) as port:
        for _ in range(5):
            port.connect(AWAY)
        assert sorted(made_room(port, 2)) == [1, 2]


# --- descriptors ----------------------------------------------------------------------------------------------------


def test_where_descriptors_are_taken_who_comes_waits_and_is_served_as_soon_as_one_ends(network: Network) -> None:
    with Port(network, descriptors_for=3) as port:
        trainers = [port.registered(client_id) for client_id in "abc"]
        with ExitStack() as stack:
            waiting = [stack.enter_context(socket.create_connection(port.listener.address, PATIENCE)) for _ in "de"]
            for client_id, peer in zip("de", waiting, strict=True):
                peer.sendall(framed(metadata(client_id)))
            eventually(lambda: port.server._one_awaited)
            assert len(port.recorder.of(e.ConnectionOpened)) == 3
            for trainer, peer in zip(trainers, waiting, strict=False):
                trainer.close()
                assert b"<SUCCESS>" in peer.recv(1024), "first come, first served"
            assert [host for host in port.closed(2) if "not served" in host[1]] == []


def test_where_descriptors_are_taken_strangers_make_room(network: Network) -> None:
    with Port(network, descriptors_for=3) as port:
        port.registered("a", HOME)  # 1
        port.connect(HOME)  # 2: it may be a's upload
        port.connect(AWAY)  # 3
        assert port.connect(HOME)
        assert made_room(port, 1) == [3]


def test_uploads_beyond_the_descriptors_take_turns_and_none_is_refused(network: Network) -> None:
    """Three rounds of forty trainers that all answer at once, where there are descriptors for two uploads."""
    most: list[int] = []
    with Port(network, descriptors_for=42) as port, ExitStack() as stack:
        trainers = {str(number): port.registered(str(number)) for number in range(40)}
        port.recorder.before[e.UpdateReceived] = lambda: most.append(port.server.open_connections)
        for round in (1, 2, 3):
            attempt = network.begin(round)
            for trainer in trainers.values():
                trainer.recv(int.from_bytes(trainer.recv(8, socket.MSG_WAITALL), "big"), socket.MSG_WAITALL)
            for client_id in trainers:
                upload = stack.enter_context(socket.create_connection(port.listener.address, PATIENCE))
                upload.sendall(framed(update(client_id, linear(value=round))))
            port.recorder.wait_for(e.UpdateReceived, 40 * round)
            network.exchange.close_attempt(attempt).updates.release()
        assert {came.decision for came in port.recorder.of(e.UpdateReceived)} == {None}, "each counts"
        assert {reason for _, reason in port.closed(3 * 40)} == {"closed"}
        assert max(most) <= 42


@pytest.mark.parametrize("newcomer", [True, False])
def test_a_server_that_waits_for_descriptors_can_be_stopped(network: Network, newcomer: bool) -> None:
    with Port(network, descriptors_for=1) as port, ExitStack() as stack:
        port.registered("a")
        if newcomer:
            stack.enter_context(socket.create_connection(port.listener.address, PATIENCE))
            eventually(lambda: port.server._one_awaited)
        port.server.stop_accepting()
        assert not port.server.accepting


# --- the end --------------------------------------------------------------------------------------------------------


class Closing(threading.Thread):
    """Closes a server."""

    def __init__(self, server: Server, grace: float) -> None:
        super().__init__(name="closing")
        self._server, self._grace, self.over = server, grace, threading.Event()
        self.start()

    def run(self) -> None:
        self._server.close(self._grace)
        self.over.set()

    def join(self, timeout: float | None = PATIENCE) -> None:
        super().join(timeout)


def test_sessions_have_a_grace_in_which_to_say_goodbye(port: Port) -> None:
    peer = port.registered("a")
    port.server.stop_accepting()
    closing = Closing(port.server, PATIENCE)
    assert not closing.over.wait(0.1)
    port.network.exchange.finish(Farewell("finished"))
    assert peer.recv(1024) == framed(FINISHED_BODY)
    closing.join()
    assert closing.over.is_set()
    assert port.closed() == [(1, "finished")]


def test_who_is_left_after_the_grace_is_cut(port: Port) -> None:
    port.registered("a")
    port.connect(said=b"\0\0")
    port.connect(AWAY)
    port.server.stop_accepting()
    closing = Closing(port.server, 0.0)
    closing.join()
    assert closing.over.is_set()
    assert sorted(port.closed(3)) == [(number, "the server stopped") for number in (1, 2, 3)]
    assert port.recorder.of(e.ClientLeft)[0].reason == "stopped"
    assert not [t.name for t in threading.enumerate() if re.match("session|accept", t.name)]


def test_closing_waits_for_a_session_that_does_not_end_by_being_cut(port: Port) -> None:
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        assert go_on.wait(PATIENCE)

    port.recorder.before[e.ConnectionClosed] = hold
    port.connect()
    port.server.stop_accepting()
    closing = Closing(port.server, 0.0)
    try:
        assert held.wait(PATIENCE)
        assert not closing.over.wait(0.1), "its thread is still at work"
    finally:
        go_on.set()
        closing.join()
    assert closing.over.is_set()
    assert port.closed() == [(1, "the server stopped")]


def test_nobody_gets_room_for_an_update_any_more(port: Port) -> None:
    port.server.stop_accepting()
    port.server.close(0.0)
    with pytest.raises(ConnectionLost, match="the server is stopping"):
        port.network.memory.take(1, "a client", 1)
