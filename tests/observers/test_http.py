"""``/metrics`` and ``/healthz`` scraped over loopback."""

import logging
import select
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from email.message import Message

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flserver.errors import UsageError
from flserver.observers.heads import BURST, CheckpointPage
from flserver.observers.health import Health
from flserver.observers.http import CONNECTION_LIMIT, REQUEST_LIMIT, MetricsServer
from flserver.observers.metrics import Metrics
from flserver.settings.hosts import bare
from tests import facts
from tests.hosts import LINK_LOCAL, needs_ipv6, needs_link_local
from tests.observers.observed_run import WELL
from tests.patience import PATIENCE, eventually


class Answers:
    """A health that a test can change."""

    def __init__(self) -> None:
        self.health = WELL

    def __call__(self) -> Health:
        return self.health


@pytest.fixture
def health() -> Answers:
    return Answers()


@pytest.fixture
def serve(health: Answers) -> Iterator[Callable[..., MetricsServer]]:
    """Starts servers, and closes them."""
    servers = []

    def start(metrics: object = None, **options: object) -> MetricsServer:
        seconds = {"connection_seconds": PATIENCE} | options
        server = MetricsServer("127.0.0.1", 0, metrics or Metrics({}), health, **seconds)  # type: ignore[arg-type]
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.close()
    assert "metrics" not in [thread.name for thread in threading.enumerate()]


def ask(server: MetricsServer, path: str, method: str = "GET", **headers: str) -> tuple[int, Message, bytes]:
    host, port = server.address
    request = urllib.request.Request(f"http://{host}:{port}{path}", method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def read_to_end(peer: socket.socket) -> bytes:
    """What arrives until the server ends the connection, one way or the other."""
    data = b""
    with suppress(ConnectionResetError):
        while piece := peer.recv(2**20):
            data += piece
    return data


def test_scrape(serve: Callable[..., MetricsServer]) -> None:
    status, headers, body = ask(serve(), "/metrics?x=1")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert int(headers["Content-Length"]) == len(body)
    assert "flserver_run_state" in [family.name for family in text_string_to_metric_families(body.decode())]


def test_openmetrics_where_asked_for(serve: Callable[..., MetricsServer]) -> None:
    _, headers, body = ask(serve(), "/metrics", Accept="application/openmetrics-text;version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_only_get_and_head_of_two_pages(serve: Callable[..., MetricsServer]) -> None:
    server = serve()
    assert ask(server, "/")[0] == 404
    assert ask(server, "/metrics/")[0] == 404
    with socket.create_connection(server.address, timeout=PATIENCE) as peer:
        peer.sendall(b"HEAD /healthz HTTP/1.1\r\n\r\n")
        head, _, body = read_to_end(peer).partition(b"\r\n\r\n")
    assert body == b""
    assert f"Content-Length: {len(ask(server, '/healthz')[2])}".encode() in head.split(b"\r\n")
    status, headers, _ = ask(server, "/metrics", method="POST")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_no_http_is_a_bad_request(serve: Callable[..., MetricsServer]) -> None:
    with socket.create_connection(serve().address, timeout=PATIENCE) as peer:
        peer.sendall(b"\x80\x04hello\r\n\r\n")
        assert peer.recv(100).startswith(b"HTTP/1.1 400 ")


def test_a_failure_is_a_500_and_in_the_log(
    serve: Callable[..., MetricsServer], caplog: pytest.LogCaptureFixture
) -> None:
    def unreadable() -> float:
        raise OSError("disk gone")

    server = serve(Metrics({"database_bytes": unreadable}))
    assert ask(server, "/metrics")[0] == 500
    assert "disk gone" in caplog.text
    assert ask(server, "/healthz")[0] == 200


def test_nothing_is_logged_for_a_request(
    serve: Callable[..., MetricsServer], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    server = serve()
    with caplog.at_level(logging.DEBUG, logger="flserver"):
        ask(server, "/metrics")
        ask(server, "/nothing")
    assert [record for record in caplog.records if record.name.startswith("flserver")] == []
    assert capfd.readouterr() == ("", "")


def test_a_stuck_scraper_delays_neither_the_next_scrape_nor_the_stop(serve: Callable[..., MetricsServer]) -> None:
    server = serve(connection_seconds=3600.0)
    with socket.create_connection(server.address) as silent, socket.create_connection(server.address) as half:
        half.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert ask(server, "/metrics")[0] == 200
        server.close()  # would wait an hour
        assert read_to_end(silent) == read_to_end(half) == b""


class Huge:
    """Metrics that no socket's buffers hold."""

    def exposition(self, accept: str) -> tuple[bytes, str]:
        return bytes(64 * 2**20), "text/plain"


@contextmanager
def who_does_not_read(server: MetricsServer) -> Iterator[socket.socket]:
    with socket.create_connection(server.address, timeout=PATIENCE) as peer:
        peer.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        with suppress(ConnectionResetError):
            peer.recv(1, socket.MSG_PEEK)  # until the answer has begun, or all is over already
        yield peer


def test_a_scraper_that_does_not_read_delays_nobody(serve: Callable[..., MetricsServer]) -> None:
    server = serve(Huge())
    with who_does_not_read(server):
        assert ask(server, "/healthz")[0] == 200
        eventually(lambda: server.connections == 1)


def test_a_scraper_that_does_not_read_is_cut_at_its_deadline(serve: Callable[..., MetricsServer]) -> None:
    server = serve(Huge(), connection_seconds=0.3)
    with who_does_not_read(server) as peer:
        eventually(lambda: server.connections == 0)
        assert len(read_to_end(peer)) < 64 * 2**20


def test_a_request_that_drips_is_cut_at_its_deadline(serve: Callable[..., MetricsServer]) -> None:
    with socket.create_connection(serve(connection_seconds=0.3).address, timeout=PATIENCE) as peer:

        def drip() -> bool:
            """A byte more, and whether the connection is over."""
            with suppress(ConnectionError):  # the last drop may meet a closed connection
                peer.sendall(b"G")
                return bool(select.select([peer], [], [], 0.01)[0])
            return True

        eventually(drip)
        assert read_to_end(peer) == b""


TOO_LARGE = {
    "two hundred headers": b"GET /metrics HTTP/1.1\r\n" + b"X: 1\r\n" * 200 + b"\r\n",
    "a long header": b"GET /metrics HTTP/1.1\r\nX: " + b"x" * REQUEST_LIMIT + b"\r\n\r\n",
    "a request without end": b"x" * (20 * REQUEST_LIMIT),
}


@pytest.mark.parametrize("request_bytes", TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_request_that_is_too_large_is_told_so(serve: Callable[..., MetricsServer], request_bytes: bytes) -> None:
    with socket.create_connection(serve(connection_seconds=3600.0).address, timeout=PATIENCE) as peer:
        peer.sendall(request_bytes)
        peer.shutdown(socket.SHUT_WR)
        assert read_to_end(peer).startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


def test_requests_that_are_too_large_are_one_short_line_in_the_log(
    serve: Callable[..., MetricsServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    for request in [*TOO_LARGE.values()] * 3:
        with socket.create_connection(server.address, timeout=PATIENCE) as peer:
            peer.sendall(request)
            peer.shutdown(socket.SHUT_WR)
            read_to_end(peer)
    assert caplog.messages == ["metrics port: a request with more than 100 headers from 127.0.0.1 was refused"]
    assert [record.exc_info for record in caplog.records] == [None]


@pytest.mark.parametrize("version", ["abc", "1.x", ""])
def test_an_accept_header_with_a_version_that_is_none_gets_the_ordinary_format(
    serve: Callable[..., MetricsServer], caplog: pytest.LogCaptureFixture, version: str
) -> None:
    status, headers, _ = ask(serve(), "/metrics", Accept=f"application/openmetrics-text;version={version}")
    assert (status, caplog.messages) == (200, [])
    assert "text" in headers["Content-Type"]


STALLS = {"silent": b"", "half": b"GET /metrics HTTP/1.1\r\nAccept:", "without end": b"x" * (REQUEST_LIMIT + 1)}


@pytest.mark.parametrize("stall", STALLS.values(), ids=STALLS)
def test_the_oldest_incomplete_request_makes_room(serve: Callable[..., MetricsServer], stall: bytes) -> None:
    server = serve(connection_seconds=3600.0)
    with ExitStack() as stack:
        peers = [stack.enter_context(connected(server, stall)) for _ in range(CONNECTION_LIMIT + 16)]
        for path in ("/healthz", "/metrics"):
            assert ask(server, path)[0] == 200
        assert server.connections <= CONNECTION_LIMIT
        for peer in peers[:16]:
            read_to_end(peer)
        answered, _, _ = select.select(peers[17:], [], [], 0)
        assert not any(is_over(peer) for peer in answered), "only as many as there was no room for"


def is_over(peer: socket.socket) -> bool:
    try:
        return peer.recv(1, socket.MSG_PEEK) == b""
    except ConnectionResetError:
        return True


@contextmanager
def connected(server: MetricsServer, sending: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(server.address, timeout=PATIENCE) as peer:
        peer.sendall(sending)
        yield peer


def test_who_does_not_read_makes_room_where_all_requests_are_complete(
    serve: Callable[..., MetricsServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flserver.observers.http.CONNECTION_LIMIT", 3)  # each holds a huge answer
    server = serve(Huge(), connection_seconds=3600.0)
    with ExitStack() as stack:
        first, *_ = [stack.enter_context(who_does_not_read(server)) for _ in range(3)]
        assert ask(server, "/healthz")[0] == 200
        assert len(read_to_end(first)) < 64 * 2**20


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = MetricsServer("127.0.0.1", port, Metrics({}), lambda: WELL)
        reason = f"^--metrics-host 127.0.0.1 --metrics-port {port}: Address already in use$"
        with pytest.raises(UsageError, match=reason):
            server.start()
        server.close()


def test_a_host_that_is_not_ours_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"^--metrics-host 192\.0\.2\.1 --metrics-port 9464: Cannot assign [^\n]*$"):
        MetricsServer("192.0.2.1", 9464, Metrics({}), lambda: WELL).start()


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("no-such-host.invalid", r"^--metrics-host no-such-host\.invalid does not resolve: [^\n]*$"),
        ("..", r"^--metrics-host \.\.: [^\n]*$"),
    ],
)
def test_a_host_that_is_none_is_one_line(host: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        MetricsServer(host, 9464, Metrics({}), lambda: WELL).start()


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("[::1]", marks=needs_ipv6),
        pytest.param("::1", marks=needs_ipv6),
        pytest.param(f"[{LINK_LOCAL}]", marks=needs_link_local),
    ],
)
def test_ipv6_with_brackets_and_zone(host: str) -> None:
    server = MetricsServer(host, 0, Metrics({}), lambda: WELL)
    server.start()
    assert server.address[0] == bare(host)
    with closing(server), socket.create_connection(server.address, timeout=PATIENCE) as peer:
        peer.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert read_to_end(peer).startswith(b"HTTP/1.1 200 OK")


def test_close_without_start_and_twice(serve: Callable[..., MetricsServer]) -> None:
    MetricsServer("127.0.0.1", 0, Metrics({}), lambda: WELL).close()
    server = serve()
    server.close()
    server.close()


def test_healthz_is_the_healths_own_answer(serve: Callable[..., MetricsServer], health: Answers) -> None:
    server = serve()
    for writer_alive, expected in ((True, 200), (False, 503)):
        health.health = replace(WELL, writer_alive=writer_alive)
        status, headers, body = ask(server, "/healthz")
        assert (status, headers["Content-Type"]) == (expected, "application/json")
        assert (status, body) == health.health.response()


def test_heads_are_given_and_to_nobody_too_often(serve: Callable[..., MetricsServer]) -> None:
    page = CheckpointPage(lambda since, head: f"old {since}\n\n{head.note}")
    page.observe(facts.head_signed(size=40, note="a note\n"))
    server = serve(checkpoint=page)
    code, headers, body = ask(server, "/checkpoint?since=12")
    assert (code, body) == (200, b"old 12\n\na note\n")
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert ask(server, "/checkpoint", "HEAD")[::2] == (200, b"")
    assert ask(server, "/checkpoint?since=41")[0] == 409
    codes = [ask(server, "/checkpoint")[0] for _ in range(BURST)]
    assert 429 in codes
    code, headers, _ = ask(server, "/checkpoint")
    assert (code, headers["Retry-After"]) == (429, "1")
    assert ask(serve(), "/checkpoint")[0] == 404, "a server without"
