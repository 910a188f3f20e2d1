"""Frames over TLS: cut anywhere, standing still, read late; uploads and their end."""

import json
import socket
import ssl
import threading
import time

import pytest

from flclient import connection as connections
from flclient import tls
from flclient.connection import Connection
from flclient.tls import ClientTls, NotTrusted
from flserver.errors import ConnectionLost
from tests.flclient.plain_server import PlainServer, frame, read_bytes, read_frame
from tests.flclient.tls_server import VERSIONS, ByHand, TlsServer, refused_handshake, server_context
from tests.patience import PATIENCE

WELCOME = frame(json.dumps({"header": "<SUCCESS>", "msg": "welcome"}).encode())


def connect(server, ca):
    return Connection("localhost", server.port, 2**20, ClientTls(ca.path, None, None))


def by_hand(context, script):
    """A server whose ``script`` is given the first connection, registered, as ByHand."""

    def run(server):
        peer = ByHand(server.accept(), context)
        peer.handshake()
        peer.read(int.from_bytes(peer.read(8), "big"))
        script(peer)

    return PlainServer(run)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("sent", ["half a record", "a record of half a frame", "half a record of a body"])
def test_a_transfer_that_stands_still_is_given_up(ca, version, sent, monkeypatch):
    monkeypatch.setattr(connections, "STALL_SECONDS", 0.2)
    over = threading.Event()

    def script(peer):
        peer.send(peer.record(WELCOME))
        match sent:
            case "half a record":
                peer.send(peer.record(frame(b"x" * 100))[:-1])
            case "a record of half a frame":
                peer.send(peer.record(frame(b"x" * 100)[:-1]))
            case _:
                peer.send(peer.record(frame(b"x" * 100)[:50]))
                peer.send(peer.record(b"x" * 58)[:3])
        assert over.wait(PATIENCE)

    with by_hand(server_context(ca.server(), version=version), script) as server:
        with connect(server, ca) as connection:
            connection.register("3", 1, {})
            with pytest.raises(ConnectionLost, match="stood still") as caught:
                connection.next_model()
            over.set()
    assert caught.value.cause == "timeout"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_pause_between_frames_is_none_and_session_tickets_are_no_frame(ca, version, monkeypatch):
    """TLS 1.3 sends tickets after the handshake: records that carry nothing for us."""
    monkeypatch.setattr(connections, "STALL_SECONDS", 0.2)

    def pause(connection):  # longer than STALL_SECONDS
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(PATIENCE)

    def script(server):
        connection = server.accept()
        read_frame(connection)
        pause(connection)
        connection.sendall(WELCOME)
        pause(connection)
        server.finish(connection)

    with TlsServer(script, server_context(ca.server(), version=version)) as server:
        with connect(server, ca) as connection:
            assert connection.register("3", 1, {}) == "welcome"
            assert connection.next_model() is None


def test_records_cut_anywhere_and_two_frames_in_one_record_arrive_whole(ca):
    finished = frame(b"\x80\x04}\x8c\x06header\x8c\n<FINISHED>s.")

    over = threading.Event()

    def script(peer):
        peer._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in peer.record(WELCOME + finished):
            peer.send(bytes([byte]))
        assert over.wait(PATIENCE)

    with by_hand(server_context(ca.server()), script) as server:
        with connect(server, ca) as connection:
            assert connection.register("3", 1, {}) == "welcome"
            assert connection.next_model() is None
            over.set()


@pytest.mark.parametrize("version", VERSIONS)
def test_an_upload_arrives_whole_though_its_server_reads_late(ca, version):
    """Closing with session tickets unread would throw away what the kernel has yet to send."""
    body = bytes(range(256)) * 2**13
    gone = threading.Event()
    got = []

    def script(server):
        server._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
        server.admit()
        with server.accept() as upload:
            gone.wait(0.5)  # it must not go before it has been read
            length = int.from_bytes(read_bytes(upload, 8), "big")
            got.append(b"".join(iter(lambda: upload.recv(2**16), b"")))
        assert len(got[0]) == length

    def send(connection):
        connection.upload([body[: 2**20], memoryview(body)[2**20 :]])
        gone.set()

    with TlsServer(script, server_context(ca.server(), version=version)) as server:
        with connect(server, ca) as connection:
            connection.register("3", 1, {})
            send(connection)
    assert got == [body]


@pytest.mark.parametrize("plain", [True, False])
def test_an_upload_that_is_slow_but_goes_on_is_not_given_up(ca, plain, monkeypatch):
    monkeypatch.setattr(connections, "STALL_SECONDS", 2)
    body = bytes(2**24)
    slowly = threading.Event()

    def script(server):
        server.admit()
        with server.accept() as upload:
            for _ in range(len(body) // 2**16):
                read_bytes(upload, 2**16)
                slowly.wait(0.016)
            assert read_bytes(upload, 8) == bytes(8)

    server = PlainServer(script) if plain else TlsServer(script, server_context(ca.server()))
    with (
        server,
        Connection("localhost", server.port, 100, None if plain else ClientTls(ca.path, None, None)) as connection,
    ):
        connection.register("3", 1, {})
        started = time.monotonic()
        connection.upload([body])
        assert time.monotonic() - started > 2


def test_a_server_that_never_closes_an_upload_is_not_waited_for_longer_than_the_farewell(ca, monkeypatch):
    monkeypatch.setattr(tls, "FAREWELL_SECONDS", 0.2)
    over = threading.Event()

    def script(server):
        server.admit()
        read_frame(server.accept())
        assert over.wait(PATIENCE)

    with TlsServer(script, server_context(ca.server())) as server:
        with connect(server, ca) as connection:
            connection.register("3", 1, {})
            connection.upload([b"x" * 100])
        over.set()


def test_a_certificate_rejected_at_an_upload_is_noticed_while_it_is_sent(ca, other_ca):
    def script(server):
        server.admit()
        server.context = server_context(ca.server(), other_ca)
        refused_handshake(server)

    upload_is_rejected(ca, TlsServer(script, server_context(ca.server(), ca)), bytes(2**24))


def test_a_certificate_rejected_at_an_upload_is_noticed_when_all_is_sent(ca, other_ca):
    def script(server):
        server.admit()
        upload = PlainServer.accept(server)
        peer = ByHand(upload, server_context(ca.server(), other_ca))
        with pytest.raises(ssl.SSLError):
            peer.handshake()
        threading.Event().wait(0.2)  # until the trainer has nothing left to do but to wait for us
        peer.send(peer.unsent())
        upload.close()

    upload_is_rejected(ca, TlsServer(script, server_context(ca.server(), ca)), bytes(100))


def upload_is_rejected(ca, server, body):
    pair = ca.client("3")
    with server, Connection("localhost", server.port, 100, ClientTls(ca.path, pair.cert, pair.key)) as connection:
        connection.register("3", 1, {})
        with pytest.raises(NotTrusted, match=r"not accept this client's certificate \(unknown ca\)"):
            connection.upload([body])
