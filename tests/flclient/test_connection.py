"""The trainer's sockets against a scripted peer."""

import mmap
import pickle
import socket
from pathlib import Path

import pytest
from torch import nn

from flclient import connection as connections
from flclient.connection import Connection, NotAdmitted, backoff
from flserver.errors import ConnectionLost, FrameRefused, MessageRefused, PickleRefused, UsageError
from flserver.wire.framing import OPENING_BYTES
from tests.flclient.plain_server import PlainServer, frame, read_frame
from tests.hosts import LINK_LOCAL, needs_ipv6, needs_link_local
from tests.patience import PATIENCE


def connect(server, max_body=2**20):
    return Connection("localhost", server.port, max_body)


def replies(body):
    def script(server):
        connection = server.accept()
        read_frame(connection)
        connection.sendall(body)
        connection.close()

    return script


def test_localhost_is_tried_as_ipv4_first(monkeypatch):
    both = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 1, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1)),
    ]
    tried = []

    class Recorded(socket.socket):
        def connect(self, address):
            tried.append(address[0])
            raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: list(both))
    monkeypatch.setattr(connections.socket, "socket", Recorded)
    with pytest.raises(ConnectionLost, match="cannot connect to localhost:1: Connection refused"):
        Connection("localhost", 1, 10)
    assert tried == ["127.0.0.1", "::1"]


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_server_with_and_without_brackets(host):
    with PlainServer(lambda server: server.admit(), family=socket.AF_INET6, host="::1") as server:
        with Connection(host, server.port, 1000) as connection:
            connection.register("1", 2, {})
    with pytest.raises(ConnectionLost, match=r"^cannot connect to \[::1\]:1: Connection refused$"):
        Connection(host, 1, 10)


@needs_link_local
def test_a_server_on_one_link():
    def script(server):
        server.admit()

    with PlainServer(script, family=socket.AF_INET6, host="::") as server:
        with Connection(f"[{LINK_LOCAL}]", server.port, 1000) as connection:
            connection.register("1", 2, {})


def test_a_name_that_does_not_resolve_may_be_known_later_and_what_is_none_may_not():
    with pytest.raises(ConnectionLost, match=r"^--host no-such-host\.invalid does not resolve: "):
        Connection("no-such-host.invalid", 1, 10)
    with pytest.raises(UsageError, match=r"^--host \.\.: "):
        Connection("..", 1, 10)


def test_registration_carries_id_size_and_info():
    with PlainServer(lambda server: server.admit(msg="hello\x1b[2J")) as server, connect(server) as connection:
        assert connection.register("host-a", 12, {"epochs": 8}) == "hello?[2J"
    assert server.hellos == [{"header": "<METADATA>", "id": "host-a", "data_size": 12, "info": {"epochs": 8}}]


def test_a_refusal_is_the_servers_words():
    with PlainServer(lambda server: server.admit("<ERROR>", "too late")) as server, connect(server) as connection:
        with pytest.raises(NotAdmitted, match=r"^too late$"):
            connection.register("1", 2, {})


@pytest.mark.parametrize(
    ("reply", "error", "reason"),
    [
        (b"", ConnectionLost, "closed"),
        (b"\0\0\0", ConnectionLost, "closed"),
        (frame(b'{"header": "<SUCCESS>"}')[:-1], ConnectionLost, "closed"),
        ((2**16 + 1).to_bytes(8, "big"), FrameRefused, "announced 65537 bytes"),
        (b"HTTP/1.1 400 Bad Request", FrameRefused, "announced"),
        (frame(b""), PickleRefused, "claimed"),
        (frame(b"no json"), PickleRefused, "opcode|byte|protocol|pickle"),
        (frame(b"[1]"), PickleRefused, "opcode|byte|protocol|pickle"),
        (frame(b"{}"), MessageRefused, "without a header"),
        (frame(b"{]"), MessageRefused, "starts like JSON and is none"),
        (frame(b"\xff\xfe{}"), PickleRefused, "opcode|byte|protocol|pickle"),
        (frame(b'{"header": "<MODEL>"}'), MessageRefused, "'<MODEL>' is not one that may come here"),
        (frame(pickle.dumps({"header": "<FINISHED>"})), MessageRefused, "out of turn"),
    ],
)
def test_what_is_no_answer_to_a_registration(reply, error, reason):
    with PlainServer(replies(reply)) as server, connect(server) as connection:
        with pytest.raises(error, match=reason):
            connection.register("1", 2, {})


class Exploit:
    def __reduce__(self):
        return (__import__, ("this_must_not_be_imported",))


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"{}", MessageRefused),
        (b"", PickleRefused),
        (b'{"header": "<SUCCESS>", "msg": "again"}', MessageRefused),
        (pickle.dumps([1]), PickleRefused),
        (pickle.dumps({"header": "<MODEL>"}), PickleRefused),
        (pickle.dumps({"header": "<MODEL>", "model": Exploit()}), PickleRefused),
        (pickle.dumps({"header": "<ERROR>", "msg": "x"}), MessageRefused),
        (pickle.dumps({"header": "<MODEL>", "model": nn.Linear(100, 100)}), FrameRefused),
    ],
)
def test_what_is_no_model(body, error):
    def script(server):
        server.admit().sendall(frame(body))

    with PlainServer(script) as server, connect(server, max_body=5000) as connection:
        connection.register("1", 2, {})
        with pytest.raises(error):
            connection.next_model()


@pytest.mark.parametrize(("width", "piece"), [(30, 7), (300, 7000)])
def test_a_large_body_in_small_pieces_arrives_whole(width, piece):
    sent = pickle.dumps({"header": "<MODEL>", "model": nn.Linear(width, width)})
    assert (len(sent) > OPENING_BYTES) == (width == 300)

    def script(server):
        connection = server.admit()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(frame(sent)), piece):
            connection.sendall(frame(sent)[at : at + piece])
        server.finish(connection)

    with PlainServer(script) as server, connect(server) as connection:
        connection.register("1", 2, {})
        assert connection.next_model().buffer == sent
        assert connection.next_model() is None


def test_memory_follows_the_bytes_that_came():
    announced, sizes, resident = 2**30, [], []

    class Peer:
        def settimeout(self, seconds):
            pass

        def recv_into(self, view):
            sizes.append(len(view))
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE)
            coming = {1: announced.to_bytes(8, "big"), 2: bytes(OPENING_BYTES), 3: bytes(1000)}.get(len(sizes), b"")
            view[: len(coming)] = coming
            return len(coming)

    with pytest.raises(ConnectionLost):
        connections._receive(Peer(), announced)
    assert sizes == [8, OPENING_BYTES, announced - OPENING_BYTES, announced - OPENING_BYTES - 1000]
    assert resident[-1] - resident[0] < 2**25


def test_a_transfer_that_stands_still_is_given_up_but_a_pause_between_frames_is_not(monkeypatch):
    monkeypatch.setattr(connections, "STALL_SECONDS", 0.2)

    def script(server):
        connection = server.admit()
        connection.settimeout(0.5)  # a pause longer than STALL_SECONDS
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.sendall(frame(b"x" * 10)[:-1])
        connection.settimeout(PATIENCE)
        assert connection.recv(1) == b""

    with PlainServer(script) as server:
        with connect(server) as connection:
            connection.register("1", 2, {})
            with pytest.raises(ConnectionLost, match="stood still") as caught:
                connection.next_model()
            assert caught.value.cause == "timeout"


def test_pauses_double_with_jitter_and_stay_within_the_budget():
    assert list(backoff(0)) == []
    pauses = list(backoff(100))
    assert sum(pauses) == pytest.approx(100)
    for at, pause in enumerate(pauses[:-1]):
        longest = min(10, 0.2 * 2**at)
        assert longest / 2 <= pause <= longest
    assert list(backoff(100)) != pauses
