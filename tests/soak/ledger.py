"""What the soak's peers did, to be held against what the server recorded."""

import socket
import threading
from collections import Counter
from contextlib import suppress

from tests.e2e.harness import ServerProcess
from tests.patience import PATIENCE

HOME = "127.0.0.1"  # where the honest are


class SoakError(Exception):
    """The soak itself could not go on."""


class Ledger:
    """Every connection made to ``server``, by kind and by its own port. One that the system refused is none."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self._lock = threading.Lock()  # guards everything below
        self._made: list[tuple[str, int]] = []
        self._counts: Counter[str] = Counter()
        self._answers: dict[str, Counter[str]] = {}
        self._complaints: list[str] = []

    def connect(self, kind: str, host: str = HOME) -> socket.socket:
        """A connection from the address ``host``. Raises OSError where the system refuses."""
        try:
            connection = socket.create_connection((HOME, self.server.port), PATIENCE, (host, 0))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            self.count("not connected")
            raise
        with self._lock:
            self._made.append((kind, connection.getsockname()[1]))
        return connection

    def count(self, what: str) -> None:
        """Something that the server must have a row of was done."""
        with self._lock:
            self._counts[what] += 1

    def note(self, kind: str, answer: str) -> None:
        """What a hostile peer of that kind did, or was answered."""
        with self._lock:
            self._answers.setdefault(kind, Counter())[answer] += 1

    def complain(self, complaint: str) -> None:
        """A peer was not treated as it must be."""
        with self._lock:
            self._complaints.append(complaint)

    @property
    def connections(self) -> int:
        with self._lock:
            return len(self._made)

    @property
    def kinds(self) -> Counter[str]:
        """How many connections of each kind were made."""
        with self._lock:
            return Counter(kind for kind, _ in self._made)

    @property
    def ports(self) -> Counter[int]:
        """How often each port was a peer's."""
        with self._lock:
            return Counter(port for _, port in self._made)

    @property
    def counts(self) -> Counter[str]:
        with self._lock:
            return self._counts.copy()

    @property
    def answers(self) -> dict[str, dict[str, int]]:
        """By kind of hostile peer, how often it did or was answered what."""
        with self._lock:
            return {kind: dict(sorted(answers.items())) for kind, answers in sorted(self._answers.items())}

    @property
    def complaints(self) -> list[str]:
        with self._lock:
            return [*self._complaints]


def until_closed(connection: socket.socket) -> None:
    """Read until the server ends the connection. Raises TimeoutError where it does not."""
    connection.settimeout(PATIENCE)
    with suppress(ConnectionError):
        while connection.recv(1 << 16):
            pass


def reset(connection: socket.socket) -> None:
    """Close with a reset instead of an end of file."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
