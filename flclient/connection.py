"""The trainer's sockets: the first connection, which brings models, and a new one for every upload."""

import random
import select
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from flclient import tls
from flserver.errors import EXIT_INTERRUPTED, Cause, ConnectionLost, FlserverError, FrameRefused
from flserver.models.pages import anonymous
from flserver.settings import hosts
from flserver.wire import protocol
from flserver.wire.framing import FrameLimits, FrameReader, encode_length
from flserver.wire.messages import Error, Finished, Message, Metadata, Success, encode_metadata
from flserver.wire.pickles import PickleLimits
from flserver.wire.template import Template

CONNECT_SECONDS = 30.0
KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
"""Seconds of silence before the system asks whether the server's machine lives, seconds between two questions, and how
many go unanswered: one that is gone is noticed within two minutes."""
STALL_SECONDS = 300.0
"""How long a transfer may stand still. Between frames there is no limit: the others may train for hours."""
MAX_REPLY = 2**16  # bytes of the answer to a registration: a line of text
SEND_CHUNK = 2**16  # bytes that have STALL_SECONDS to be sent
SHOWN_LENGTH = 1000  # characters of what the server says
TLS_ALERT = b"\x15\x03"  # how a server that speaks TLS refuses plain text

Piece = bytes | bytearray | memoryview


class NotAdmitted(FlserverError):
    """The server answered the registration with ``<ERROR>``; the message is the server's."""


class Stopped(FlserverError):
    """The server said goodbye in the middle of the run: it means to come back with it."""

    exit_code = EXIT_INTERRUPTED


class Connection(AbstractContextManager["Connection"]):
    """The first connection to the server. Closed on leaving the context.

    ``run`` is the id of the run that the server registered us for; None where it does not say.

    Every method raises ConnectionLost where the peer cannot be reached, is gone or stands still, a PeerError where it
    does not speak the protocol, and tls.NotTrusted where TLS does not come about.
    """

    def __init__(
        self,
        host: str,
        port: int,
        max_body: int,
        security: tls.ClientTls | None = None,
        pickles: PickleLimits | None = None,
    ) -> None:
        """Connect, in plain text unless ``security`` says how. A frame of more than ``max_body`` bytes is refused, and
        a model that takes more than ``pickles`` to read."""
        self._host = host
        self._port = port
        self._security = security
        self.run: str | None = None
        self._pickles = pickles or PickleLimits()
        self._protocol = protocol.Conversation(
            protocol.Role.CLIENT, json_limit=MAX_REPLY, pickle_limit=max_body, pickles=self._pickles
        )
        self._socket = _connect(host, port, security)
        # Nothing is sent on this connection while waiting: without probes a server that lost power is waited for always
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            if hasattr(socket, option):
                self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._socket:
            if isinstance(self._socket, ssl.SSLSocket):
                tls.farewell(self._socket, 0)

    def register(self, client_id: str, data_size: int, info: dict[str, Any]) -> str:
        """Ask to take part and return what the server says. Raises NotAdmitted where it refuses."""
        self._protocol.send(Metadata)
        _send(self._socket, [encode_metadata(client_id, data_size, info)])
        reply, _ = self._receive()
        if isinstance(reply, Error):
            raise NotAdmitted(_printable(reply.msg))
        assert isinstance(reply, Success), "the protocol's table lets nothing else through"
        self.run = reply.run
        return _printable(reply.msg)

    def next_model(self) -> Template | None:
        """Wait for the next global model; None when the run is complete.

        Raises Stopped where the server stops before that, and PickleRefused for a body not understood.
        """
        message, body = self._receive()
        if not isinstance(message, Finished):
            return Template(body, self._pickles)
        if not message.complete:
            raise Stopped("the server stopped in the middle of the run")
        return None

    def _receive(self) -> tuple[Message, memoryview]:
        """The server's next message, and the body it came in."""
        body = _receive(self._socket, self._protocol.frame_limits().longest)
        return self._protocol.receive(body), body

    def upload(self, pieces: Sequence[Piece]) -> None:
        """Send a body, in pieces, on a connection of its own.

        Where nobody takes it and something waits on the first connection, that says why, and it is not an error: a
        server that ended while we trained has said goodbye there.
        """
        try:
            with _connect(self._host, self._port, self._security) as upload:
                _send(upload, pieces)
                if isinstance(upload, ssl.SSLSocket) and (refusal := tls.farewell(upload, tls.FAREWELL_SECONDS)):
                    raise refusal
        except ConnectionLost:
            if not select.select([self._socket], [], [], 0)[0]:
                raise


def backoff(deadline_seconds: float, first: float = 0.2, longest: float = 10.0) -> Iterator[float]:
    """Pauses in seconds between tries: doubling, each cut by up to a half at random so that a fleet does not return at
    once; their sum stays within ``deadline_seconds``."""
    left, pause = deadline_seconds, first
    while left > 0:
        chosen = min(left, pause * random.uniform(0.5, 1.0))
        yield chosen
        left -= chosen
        pause = min(longest, pause * 2)


def _connect(host: str, port: int, security: tls.ClientTls | None) -> socket.socket:
    connection = _dial(host, port)
    # What a certificate is for has neither brackets nor a zone.
    return connection if security is None else security.wrap(connection, hosts.bare(host).partition("%")[0])


def _dial(host: str, port: int) -> socket.socket:
    try:
        addresses = hosts.addresses(host, port, "--host")
    except hosts.Unresolved as error:  # its name server may be back soon
        raise ConnectionLost(str(error)) from error
    failed: OSError | None = None
    for family, address in addresses:
        try:
            connection = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # a kind of address that this machine has not
            failed = error
            continue
        try:
            connection.settimeout(CONNECT_SECONDS)
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            failed = error
    assert failed is not None, "a name that resolves has an address"
    raise ConnectionLost(f"cannot connect to {hosts.with_port(host, port)}: {failed.strerror or failed}") from failed


def _send(connection: socket.socket, pieces: Sequence[Piece]) -> None:
    connection.settimeout(STALL_SECONDS)
    try:
        connection.sendall(encode_length(sum(len(piece) for piece in pieces)))
        for piece in pieces:
            view = memoryview(piece)
            for at in range(0, len(view), SEND_CHUNK):  # a socket's timeout is for all that one call sends
                connection.sendall(view[at : at + SEND_CHUNK])
    except OSError as error:
        raise (_said(connection) or _lost(error)) from error


def _said(connection: socket.socket) -> FlserverError | None:
    """What the server sent before it hung up, where that says why."""
    try:
        connection.settimeout(0)
        opening = connection.recv(8)
    except OSError as error:
        return tls.verdict(error)
    return _closed(opening) if _is_alert(opening) else None


def _receive(connection: socket.socket, limit: int) -> memoryview:
    """The body of the next frame, in memory of its own that may be written into.

    Raises FrameRefused for one of more than ``limit`` bytes, ConnectionLost and tls.NotTrusted.
    """
    reader = FrameReader(FrameLimits(either=limit))
    head = reader.space()  # the eight bytes of the length, as they come
    connection.settimeout(None)
    while not reader.complete:
        try:
            if reader.needs_room:
                reader.give_room(_room(reader))
            count = _read_some(connection, reader.space())
        except OSError as error:
            raise (_closed(head) if _is_alert(head) else _lost(error)) from error
        if count == 0:
            raise _closed(head)
        connection.settimeout(STALL_SECONDS)
        try:
            reader.received(count)
        except FrameRefused as error:
            if _is_alert(head):
                raise _closed(head) from error
            announced = int.from_bytes(head, "big")
            raise FrameRefused(f"the server announced {announced} bytes; at most {limit} are expected") from error
    return reader.body


def _room(reader: FrameReader) -> memoryview:
    """Room for the whole body. Memory follows the bytes that come, not those that were announced."""
    assert reader.length is not None
    return memoryview(anonymous(reader.length))


def _read_some(connection: socket.socket, into: memoryview) -> int:
    if isinstance(connection, ssl.SSLSocket) and connection.gettimeout() is None:
        return tls.read_first(connection, into, STALL_SECONDS)
    return connection.recv_into(into)


def _closed(opening: bytes | memoryview) -> ConnectionLost:
    """The server is gone; ``opening`` is what began to come from it."""
    hint = "; it may speak TLS: give --tls-ca" if _is_alert(opening) else ""
    return ConnectionLost(f"the server closed the connection{hint}", "closed")


def _is_alert(opening: bytes | memoryview) -> bool:
    """Whether these are the first bytes of a server that speaks TLS, where plain text was expected."""
    return opening[: len(TLS_ALERT)] == TLS_ALERT


def _lost(error: OSError) -> FlserverError:
    if isinstance(error, ssl.SSLError):
        return tls.lost(error)
    if isinstance(error, TimeoutError) and error.errno is None:
        return ConnectionLost(f"the server stood still for {STALL_SECONDS:.0f} s", "timeout")
    cause: Cause = "reset" if isinstance(error, (ConnectionResetError, BrokenPipeError)) else "other"
    return ConnectionLost(f"the connection was lost: {error.strerror or error}", cause)


def _printable(text: str) -> str:
    """The server's words, cut, and without control characters, which could rewrite the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)[:SHOWN_LENGTH]
