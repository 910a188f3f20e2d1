"""Who stalls at the metrics port, or asks for too much there, costs neither its readers nor the rounds."""

import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress

from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer, ServerProcess
from tests.patience import PATIENCE

Join = Callable[..., list[Peer]]

MANY = 80  # more than the port serves at once
STALLS = {
    "silent": b"",
    "half a request": b"GET /healthz HTTP/1.1\r\nAccept: ",
    "an endless one": b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 20_000,
}
TOO_LARGE = {
    "two hundred headers": b"GET /metrics HTTP/1.1\r\n" + b"X: 1\r\n" * 200 + b"\r\n",
    "long headers": b"GET /metrics HTTP/1.1\r\n" + (b"X: " + b"x" * 1000 + b"\r\n") * 50 + b"\r\n",
    "a long target": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
}


def asking(server: ServerProcess, request: bytes) -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", server.metrics_port), timeout=PATIENCE)
    with suppress(ConnectionError):
        peer.sendall(request)
    return peer


def test_who_stalls_or_asks_for_too_much_starves_neither_health_nor_rounds(start: Start, join: Join) -> None:
    server = start("--num-rounds", "4", "--min-clients", "2", "--metrics-linger", str(PATIENCE), *FAST)
    peers = join(server, "a", "b")
    for request in STALLS.values():
        with ExitStack() as stack:
            for _ in range(MANY):
                stack.enter_context(asking(server, request))
            assert server.health()[0] == 200
            for peer in peers:
                peer.answer()
            assert server.metrics()["flserver_connected_clients"] == 2
    for request in TOO_LARGE.values():
        for _ in range(5):
            with asking(server, request) as scraper:
                scraper.shutdown(socket.SHUT_WR)
                assert scraper.recv(12) == b"HTTP/1.1 431"
    for peer in peers:
        peer.answer()
    for peer in peers:
        peer.finished()
    assert server.health()[0] == 200
    server.process.terminate()
    assert server.exit_code() == 0
    assert server.sql("SELECT decision, COUNT(*) FROM v1_updates GROUP BY 1") == [("accepted", 8)]
    assert len([line for line in server.lines if "metrics port" in line]) == 1
    assert "Traceback" not in server.log
