"""``/metrics``, ``/healthz`` and ``/checkpoint`` over HTTP.

One thread, one event loop: a scraper that stalls, or drips its request byte by byte, holds a socket until its deadline
and nothing else, so it delays neither the next scrape nor the stop. Where there are too many of them, the one whose
request has been incomplete for longest makes room.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from threading import Thread
from typing import Protocol

from flserver.clock import Deadline
from flserver.errors import UsageError
from flserver.observers.health import Health
from flserver.settings.hosts import addresses, own_address

logger = logging.getLogger(__name__)

REQUEST_LIMIT = 16 * 1024  # bytes of request line and headers
HEADER_LIMIT = 100  # headers of a request; scrapers send some six
CONNECTION_SECONDS = 5.0  # a connection's whole life: a request and its answer
CONNECTION_LIMIT = 64  # at once; a scraper needs one
ACCEPTED_AT_ONCE = 16  # well below the limit: a request that is there is read before newer connections can displace it
BACKLOG = 128  # connections that the system keeps until they are accepted
REFUSAL_SECONDS = 60.0  # between two lines in the log about requests that are too large
TEXT = "text/plain; charset=utf-8"


class Exposes(Protocol):
    """The part of ``metrics.Metrics`` that the HTTP server needs."""

    def exposition(self, accept: str) -> tuple[bytes, str]: ...


class Answers(Protocol):
    """The part of ``heads.CheckpointPage`` that the HTTP server needs."""

    def answer(self, query: str, address: str) -> tuple[HTTPStatus, bytes]: ...


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
    """Serves GET and HEAD of its pages on a thread of its own, which ``close`` joins."""

    def __init__(
        self,
        host: str,
        port: int,
        metrics: Exposes,
        health: Callable[[], Health],
        checkpoint: Answers | None = None,
        connection_seconds: float = CONNECTION_SECONDS,
    ) -> None:
        self._host, self._port = host, port
        self._metrics, self._health, self._checkpoint = metrics, health, checkpoint
        self._connection_seconds = connection_seconds
        self._open: dict[asyncio.StreamWriter, bool] = {}  # oldest first; whether its request is complete
        self._next_refusal = Deadline.after(0)
        self._address: tuple[str, int] | None = None
        self._running: tuple[asyncio.AbstractEventLoop, Thread] | None = None
        self._stop = asyncio.Event()

    @property
    def connections(self) -> int:
        """The open ones."""
        return len(self._open)

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
        server = await asyncio.start_server(
            self._connection, sock=listener, limit=REQUEST_LIMIT, backlog=ACCEPTED_AT_ONCE
        )
        listener.listen(BACKLOG)  # asyncio takes one number for both
        await self._stop.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= CONNECTION_LIMIT:
            self._make_room()
        self._open[writer] = False
        try:
            async with asyncio.timeout(self._connection_seconds):
                await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # a scraper that was too slow, made room or left: it learns so from the end of its connection
        finally:
            writer.transport.abort()
            self._open.pop(writer, None)

    def _make_room(self) -> None:
        """Close the oldest of the connections whose request is incomplete; where there is none, the oldest of all."""
        oldest = next((writer for writer, complete in self._open.items() if not complete), next(iter(self._open)))
        del self._open[oldest]  # its task ends a moment later
        oldest.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            await self._refuse(reader, writer, f"a request of more than {REQUEST_LIMIT} bytes")
            return
        line, *headers = request.split(b"\r\n")[:-2]
        if len(headers) > HEADER_LIMIT:
            await self._refuse(reader, writer, f"a request with more than {HEADER_LIMIT} headers")
            return
        if writer in self._open:
            self._open[writer] = True
        writer.write(self._response(line, headers, str((writer.get_extra_info("peername") or ("",))[0])))
        writer.close()
        await writer.wait_closed()

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, what: str) -> None:
        """Say that it is too large, and read on to its end: closed before that, the answer would be lost."""
        if self._next_refusal.passed:
            self._next_refusal = Deadline.after(REFUSAL_SECONDS)
            logger.warning("metrics port: %s from %s was refused", what, writer.get_extra_info("peername")[0])
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        writer.write(_bytes(status, what.encode() + b" is refused\n", TEXT))
        writer.write_eof()
        while await reader.read(REQUEST_LIMIT):
            pass

    def _response(self, line: bytes, headers: list[bytes], address: str) -> bytes:
        words = line.decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _bytes(HTTPStatus.BAD_REQUEST, b"bad request\n", TEXT)
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            return _bytes(HTTPStatus.METHOD_NOT_ALLOWED, b"GET or HEAD\n", TEXT, "Allow: GET, HEAD\r\n")
        try:
            status, body, content_type = self._page(target, headers, address)
        except Exception:
            logger.exception("%s failed", target.partition("?")[0])
            status, body, content_type = HTTPStatus.INTERNAL_SERVER_ERROR, b"failed; the log says why\n", TEXT
        wait = "Retry-After: 1\r\n" if status == HTTPStatus.TOO_MANY_REQUESTS else ""
        response = _bytes(status, body, content_type, wait)
        return response if method == "GET" else response[: len(response) - len(body)]

    def _page(self, target: str, headers: list[bytes], address: str) -> tuple[HTTPStatus, bytes, str]:
        path, _, query = target.partition("?")
        if path == "/metrics":
            return HTTPStatus.OK, *self._metrics.exposition(_header("accept", headers))
        if path == "/healthz":
            return *self._health().response(), "application/json"
        if path == "/checkpoint" and self._checkpoint is not None:
            return *self._checkpoint.answer(query, address), TEXT
        return HTTPStatus.NOT_FOUND, b"/metrics, /healthz or /checkpoint\n", TEXT


def _header(name: str, headers: list[bytes]) -> str:
    """The value of the first header called ``name``, which is in small letters; empty where there is none."""
    pairs = (header.decode("latin-1").partition(":") for header in headers)
    return next((value.strip() for key, _, value in pairs if key.strip().lower() == name), "")


def _bytes(status: HTTPStatus, body: bytes, content_type: str, more_headers: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{more_headers}Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + body
