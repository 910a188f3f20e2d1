"""A server on a port of its own in this process, and what its connections are told."""

import socket
from contextlib import ExitStack
from itertools import count
from math import inf

from flserver import events as e
from flserver.network.capacity import Capacity
from flserver.network.listener import Listener
from flserver.network.server import MADE_ROOM, Server
from tests.network.frames import framed
from tests.network.served import Network, metadata
from tests.patience import PATIENCE, eventually

HOME, AWAY, FAR = "127.0.0.1", "127.0.0.2", "127.0.0.3"


class Port:
    """A server on a port of its own, and peers of it from any loopback address."""

    def __init__(self, network: Network, in_all: int = 100, an_address: int = 100, descriptors_for: int = 1000) -> None:
        self.network, self.recorder = network, network.recorder
        self.listener = Listener("127.0.0.1", 0)
        self.server = Server(self.listener, network.context, count(1), Capacity(in_all, an_address, descriptors_for))
        self._peers = ExitStack()

    def __enter__(self) -> "Port":
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.recorder.before.clear()
        self._peers.close()  # so that what is not cut ends all the same
        self.server.stop_accepting()
        self.server.close(0.0)

    def connect(self, host: str = HOME, said: bytes = b"\0", header: bytes = b"") -> socket.socket:
        """A connection from ``host``, when it has its place and was heard to say that; or when it has ended."""
        before = self.recorder.of(e.ConnectionOpened)
        number = 1 + max((one.connection_id for one in [*before, *self.server._served]), default=0)
        peer = socket.create_connection(self.listener.address, PATIENCE, (host, 0))
        self._peers.enter_context(peer).sendall(header + said)
        self.recorder.wait_for(e.ConnectionOpened, len(before) + 1)
        eventually(lambda: self._heard(number) >= len(said))
        return peer

    def _heard(self, number: int) -> float:
        """How much its session has read of a connection's first message, which it does when it has its place."""
        alive = {session.connection_id: session for session in list(self.server._served)}
        return alive[number]._first.bytes if number in alive else inf

    def registered(self, client_id: str, host: str = HOME) -> socket.socket:
        """A trainer that takes part."""
        peer = self.connect(host, framed(metadata(client_id)))
        assert b"<SUCCESS>" in peer.recv(1024)
        eventually(lambda: self.network.rounds.participants[client_id].live)
        return peer

    def closed(self, number: int = 1) -> list[tuple[int, str]]:
        """Which connections ended and why, once there are as many."""
        return [(event.connection_id, event.reason) for event in self.recorder.wait_for(e.ConnectionClosed, number)]


def ended(peer: socket.socket) -> bool:
    """Whether nothing more comes."""
    try:
        return peer.recv(1) == b""
    except ConnectionResetError:
        return True


def made_room(port: Port, number: int) -> list[int]:
    """Who did, in that order, once there are as many."""
    return [connection_id for connection_id, reason in port.closed(number) if reason == MADE_ROOM]
