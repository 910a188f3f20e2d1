"""``/metrics`` and ``/healthz`` over HTTP.

One thread, one event loop: a scraper that stalls, or drips its request byte by byte, holds a socket until its deadline
and nothing else, so it delays neither the next scrape nor the stop.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.client import parse_headers
from io import BytesIO
from threading import Thread
from typing import Protocol

from flserver.errors import UsageError
from flserver.observers.health import Health
from flserver.settings.hosts import addresses, own_address

logger = logging.getLogger(__name__)

REQUEST_LIMIT = 16 * 1024  # bytes of request line and headers
CONNECTION_SECONDS = 5.0  # a connection's whole life
CONNECTION_LIMIT = 64  # at once; a scraper needs one, and one beyond them is closed without an answer
TEXT = "text/plain; charset=utf-8"


class Exposes(Protocol):
    """The part of ``metrics.Metrics`` that the HTTP server needs."""

    def exposition(self, accept: str) -> tuple[bytes, str]: ...


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there, for who asks for metrics. Raises UsageError where the address cannot be had."""
    family, address = addresses(host, port, "--metrics-host")[0]
    try:
        return socket.create_server(address, family=family)
    except OSError as error:
        # The errno's own words: create_server adds the address to strerror.
        reason = os.strerror(error.errno) if error.errno else error.strerror
        raise UsageError(f"--metrics-host {host} --metrics-port {port}: {reason}") from error


class MetricsServer:
    """Serves GET and HEAD of ``/metrics`` and ``/healthz`` on a thread of its own, which ``close`` joins."""

    def __init__(
        self,
        host: str,
        port: int,
        metrics: Exposes,
        health: Callable[[], Health],
        connection_seconds: float = CONNECTION_SECONDS,
    ) -> None:
        self._host, self._port = host, port
        self._metrics, self._health = metrics, health
        self._connection_seconds = connection_seconds
        self.connections = 0  # open ones
        self._address: tuple[str, int] | None = None
        self._running: tuple[asyncio.AbstractEventLoop, Thread] | None = None
        self._stop = asyncio.Event()

    @property
    def address(self) -> tuple[str, int]:
        """The host and port that are listened on. Raises RuntimeError before ``start``."""
        if self._address is None:
            raise RuntimeError("not started")
        return self._address

    def start(self) -> None:
        """Listen, then serve. Raises UsageError where the address cannot be listened on."""
        listener = listen(self._host, self._port)
        self._address = own_address(listener)
        loop = asyncio.new_event_loop()
        thread = Thread(target=self._run, args=(loop, listener), name="metrics", daemon=False)
        self._running = loop, thread
        thread.start()

    def close(self) -> None:
        """Stop at once, whoever is connected. May be called again, and without ``start``."""
        if self._running is None:
            return
        loop, thread = self._running
        with suppress(RuntimeError):  # the thread is at its end already
            loop.call_soon_threadsafe(self._stop.set)
        thread.join()

    def _run(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._serve(listener))

    async def _serve(self, listener: socket.socket) -> None:
        server = await asyncio.start_server(self._connection, sock=listener, limit=REQUEST_LIMIT)
        await self._stop.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            if self.connections <= CONNECTION_LIMIT:
                async with asyncio.timeout(self._connection_seconds):
                    request = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._response(request))
                    writer.close()
                    await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a scraper that was too slow, too long or left: it learns so from the end of its connection
        finally:
            writer.transport.abort()
            self.connections -= 1

    def _response(self, request: bytes) -> bytes:
        line, _, headers = request.partition(b"\r\n")
        words = line.decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _bytes(HTTPStatus.BAD_REQUEST, b"bad request\n", TEXT)
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            return _bytes(HTTPStatus.METHOD_NOT_ALLOWED, b"GET or HEAD\n", TEXT, "Allow: GET, HEAD\r\n")
        try:
            status, body, content_type = self._page(target.partition("?")[0], headers)
        except Exception:
            logger.exception("%s failed", target.partition("?")[0])
            status, body, content_type = HTTPStatus.INTERNAL_SERVER_ERROR, b"failed; the log says why\n", TEXT
        response = _bytes(status, body, content_type)
        return response if method == "GET" else response[: len(response) - len(body)]

    def _page(self, path: str, headers: bytes) -> tuple[HTTPStatus, bytes, str]:
        if path == "/metrics":
            accept = parse_headers(BytesIO(headers)).get("Accept", "")
            return HTTPStatus.OK, *self._metrics.exposition(accept)
        if path == "/healthz":
            return *self._health().response(), "application/json"
        return HTTPStatus.NOT_FOUND, b"/metrics or /healthz\n", TEXT


def _bytes(status: HTTPStatus, body: bytes, content_type: str, more_headers: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{more_headers}Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + body
