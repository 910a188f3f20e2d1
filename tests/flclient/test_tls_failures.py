"""Servers that do not speak TLS, break a handshake off, or speak it where plain text is expected."""

import re
import socket
import struct

import pytest

from flclient import tls
from tests.flclient.plain_server import PlainServer, frame, read_frame
from tests.flclient.tls_server import TlsServer, one_round, server_context
from tests.patience import PATIENCE


def answers(raw):
    def script(server):
        connection = server.accept()
        connection.recv(2**14)
        connection.sendall(raw)
        connection.close()

    return script


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (
            frame(b'{"header": "<ERROR>"}'),
            "no TLS 1.2 or later comes about: the server may not speak it (wrong version",
        ),
        (b"SSH-2.0-server\r\n", "no TLS 1.2 or later comes about: the server may not speak it (wrong version"),
        (b"\x16\x03\x01\x00\x05hello", "no TLS 1.2 or later comes about: the server may not speak it (unexpected mes"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "the server refuses the TLS handshake (protocol version)"),
        (b"", "the server closed the connection in the TLS handshake; it may not speak TLS"),
    ],
)
def test_a_server_that_does_not_speak_tls_is_one_line_and_not_tried_again(trainer, raw, reason):
    with PlainServer(answers(raw)) as server:
        code, _, err = trainer(server.port)
    assert code == 1
    assert err.startswith(f"flclient: {reason}")
    assert err.count("\n") == 1


def test_a_server_that_is_only_slow_to_start_is_tried_again(trainer, monkeypatch):
    monkeypatch.setattr(tls, "HANDSHAKE_SECONDS", 0.3)
    tries = []

    def script(server):
        while len(tries) < 2:
            connection = server.accept()
            connection.settimeout(PATIENCE)
            while connection.recv(2**14):
                pass
            tries.append(connection)

    with PlainServer(script) as server:
        code, _, err = trainer(server.port)
    assert code == 1
    assert len(tries) == 2
    silent = "the server was silent for 0 s in the TLS handshake; it may not speak TLS"
    assert err.startswith(f"client 3: {silent}; trying again in")


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_a_reset_and_an_internal_error_in_the_handshake_are_tried_again(trainer, ca):
    def script(server):
        connection = PlainServer.accept(server)
        connection.recv(2**14)
        reset(connection)
        connection = PlainServer.accept(server)
        connection.recv(2**14)
        connection.sendall(b"\x15\x03\x03\x00\x02\x02\x50")
        connection.close()
        one_round(server)

    with TlsServer(script, server_context(ca.server())) as server:
        code, _, err = trainer(server.port)
    assert code == 0
    lines = err.splitlines()
    lost = r"client 3: the connection was lost in the TLS handshake: .*; the server may not speak TLS; trying"
    assert re.match(lost, lines[0])
    assert lines[1].startswith("client 3: the connection was lost: internal error; trying again in")
    assert len(lines) == 2


def test_a_server_that_has_spoken_tls_and_then_breaks_a_handshake_off_is_tried_again(trainer, ca):
    def script(server):
        server.admit().close()
        connection = PlainServer.accept(server)
        connection.recv(2**14)
        connection.close()
        one_round(server)

    with TlsServer(script, server_context(ca.server())) as server:
        code, _, err = trainer(server.port)
    assert code == 0
    assert "the server closed the connection in the TLS handshake; trying again in" in err


@pytest.mark.parametrize(
    ("raw", "hinted"),
    [(b"\x15\x03\x01\x00\x02\x02\x46", True), (b"\x15\x03\x03\x00\x02\x02\x0a" * 2, True), (b"\x15\x02", False)],
)
@pytest.mark.parametrize("end", [socket.socket.close, reset])
def test_without_tls_the_alert_of_a_server_that_speaks_it_is_a_hint(flclient, fldata, raw, hinted, end):
    def script(server):
        connection = server.accept()
        read_frame(connection)
        connection.sendall(raw)
        end(connection)

    with PlainServer(script) as server:
        code, _, err = flclient("--client-id", 3, "--server-port", server.port, "--data-dir", fldata)
    assert code == 1
    assert ("the server closed the connection; it may speak TLS: give --tls-ca" in err) is hinted
    assert "the server closed the connection" in err or "the connection was lost: Connection reset by peer" in err
