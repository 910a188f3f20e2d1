"""Who stalls at the metrics port, or asks for too much there, costs neither its readers nor the rounds."""

import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress

from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer, ServerProcess
from tests.e2e.hostile.costs import MANY_REQUESTS, STALLED_REQUESTS, TOO_LARGE_REQUESTS
from tests.e2e.unattacked import digests, honest_round
from tests.patience import PATIENCE

Join = Callable[..., list[Peer]]


def asking(server: ServerProcess, request: bytes) -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", server.metrics_port), timeout=PATIENCE)
    with suppress(ConnectionError):
        peer.sendall(request)
    return peer


def test_who_stalls_or_asks_for_too_much_starves_neither_health_nor_rounds(
    start: Start, join: Join, alone: list[str]
) -> None:
    server = start("--num-rounds", "4", "--min-clients", "2", "--metrics-linger", str(PATIENCE), *FAST)
    a, b = peers = join(server, "a", "b")
    for number, request in enumerate(STALLED_REQUESTS.values()):
        with ExitStack() as stack:
            for _ in range(MANY_REQUESTS):
                stack.enter_context(asking(server, request))
            assert server.health()[0] == 200
            honest_round(a, b, number)
            assert server.metrics()["flserver_connected_clients"] == 2
    for request in TOO_LARGE_REQUESTS.values():
        for _ in range(5):
            with asking(server, request) as scraper:
                scraper.shutdown(socket.SHUT_WR)
                assert scraper.recv(12) == b"HTTP/1.1 431"
    honest_round(a, b, len(STALLED_REQUESTS))
    for peer in peers:
        peer.finished()
    assert server.health()[0] == 200
    server.process.terminate()
    assert server.exit_code() == 0
    assert server.sql("SELECT decision, COUNT(*) FROM v1_updates GROUP BY 1") == [("accepted", 8)]
    assert digests(server) == alone[:5]
    assert len([line for line in server.lines if "metrics port" in line]) == 1
    assert "Traceback" not in server.log
