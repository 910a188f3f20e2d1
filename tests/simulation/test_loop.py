"""Connections of simulated trainers, plain and over TLS: where they come from, what goes both ways, how they end."""

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from flserver.simulation.loop import Link, Loop
from flserver.simulation.tls import SEALED_AT_ONCE, Tls, TlsLink
from tests.certificates import Authority
from tests.patience import PATIENCE

MUCH = bytes(range(256)) * (9 * SEALED_AT_ONCE // 256)  # more than sockets hold


@contextmanager
def served(context: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[tuple[str, bytes, bytes]]]]:
    """A port that one connection is accepted on: what is sent until its end is answered with as much from its end to
    its beginning. Then from where it came, by whose certificate (DER), and what came, are known."""
    met: list[tuple[str, bytes, bytes]] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            accepted, (host, _) = listener.accept()
            accepted.settimeout(PATIENCE)
            with suppress(OSError), accepted if context is None else context.wrap_socket(accepted, True) as peer:
                came = bytearray()
                while len(came) < len(MUCH) and (part := peer.recv(1 << 16)):
                    came += part
                shown = peer.getpeercert(True) if isinstance(peer, ssl.SSLSocket) else None
                met.append((host, shown or b"", bytes(came)))
                peer.sendall(bytes(reversed(came)))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], met
        finally:
            thread.join()


def ending(loop: Loop, ended: list[str]) -> Callable[[str], None]:
    """What ends the loop where the connection ends, and keeps why."""

    def end(why: str) -> None:
        ended.append(why)
        loop.end()

    return end


def all_of(loop: Loop, link: Link, ended: list[str]) -> bytes:
    """What comes once MUCH is sent."""
    answer = bytearray()
    link.send([memoryview(MUCH)[:1000], b"", memoryview(MUCH)[1000:]], lambda: link.read(answer.extend))
    loop.after(PATIENCE, loop.end)
    loop.run()
    link.close()
    assert ended == [""]
    return bytes(answer)


def test_a_connection_comes_from_the_address_that_it_is_told() -> None:
    loop, ended = Loop(), list[str]()
    with served() as (port, met):
        link = Link(loop, socket.AF_INET, ("127.0.0.1", port), ending(loop, ended), "127.0.0.7")
        assert all_of(loop, link, ended) == MUCH[::-1]
    assert met == [("127.0.0.7", b"", MUCH)]
    assert loop.sent == loop.received == len(MUCH)


def test_what_the_system_refuses_at_once_is_what_ended_it() -> None:
    nowhere = ("255.255.255.255", 1)
    with socket.socket() as other:
        other.setblocking(False)
        number = other.connect_ex(nowhere)
    loop, ended = Loop(), list[str]()
    link = Link(loop, socket.AF_INET, nowhere, ending(loop, ended))
    link.send([b"x"], lambda: None)
    loop.run()
    assert ended == [os.strerror(number)]


def test_over_tls_all_that_is_sent_comes_both_ways_with_the_trainers_own_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair, own = authority.server(), {name: authority.client(name) for name in ("7", "8")}
    for name, one in own.items():
        one.in_one_file().rename(tmp_path / f"{name}.both")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.path)
    context.load_cert_chain(pair.cert, pair.key)
    context.verify_mode = ssl.CERT_REQUIRED
    files = {"ca": str(authority.path), "cert": str(tmp_path / "{id}.both"), "key": None, "host": "localhost"}
    tls, loop, ended = Tls(files), Loop(), list[str]()
    assert tls.context("7") is tls.context("7") is not tls.context("8")
    with served(context) as (port, met):
        link = TlsLink(loop, socket.AF_INET, ("127.0.0.1", port), ending(loop, ended), None, tls.context("8"), tls.host)
        assert all_of(loop, link, ended) == MUCH[::-1]
    assert met == [("127.0.0.1", ssl.PEM_cert_to_DER_cert(own["8"].cert.read_text()), MUCH)]


@pytest.mark.parametrize("host", ["localhost", "elsewhere.example"])
def test_a_server_that_does_not_prove_who_it_is_gets_nothing(tmp_path: Path, host: str) -> None:
    authority, other = Authority(tmp_path / "one"), Authority(tmp_path / "two")
    pair = (authority if host != "localhost" else other).server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    tls = Tls({"ca": str(authority.path), "cert": None, "key": None, "host": host})
    loop, ended = Loop(), list[str]()
    with served(context) as (port, met):
        link = TlsLink(loop, socket.AF_INET, ("127.0.0.1", port), ending(loop, ended), None, tls.context("1"), tls.host)
        link.send([MUCH], lambda: None)
        loop.after(PATIENCE, loop.end)
        loop.run()
    assert (ended, met) == (["no TLS comes about: certificate verify failed"], [])
