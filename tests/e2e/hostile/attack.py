"""Sends the corpus over real sockets, a part of it a round, and remembers where each input came from."""

import contextlib
import errno
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.e2e.harness import Peer, ServerProcess
from tests.e2e.hostile.corpus import INPUTS, SPEECHES, UPLOADS
from tests.e2e.hostile.inputs import Input, Speech, Then, Turn, Upload
from tests.e2e.hostile.models import NAN_WEIGHT
from tests.e2e.hostile.net import Net, fixed_net
from tests.patience import PATIENCE, eventually

MALLORIES = 8  # participants that answer every round's model with something wrong
AT_ONCE = b"\1\0\0\0\0\0\0\0"  # lingering for no time: closing resets the connection
HOME, ELSEWHERE = "127.0.0.1", "127.1.0.1"  # where the participants are, and where nobody has registered
PORTS = range(10_000, 32_768)  # below those that the system gives out

Item = TypeVar("Item")


@dataclass(frozen=True)
class Sent:
    """Where an input came from and what came back. ``message``: which one of its connection's it is, from 0."""

    host: str
    port: int
    answer: bytes
    message: int = 0


class Attack:
    """The corpus against one server with ``rounds`` rounds. Each participant is another registered client."""

    def __init__(self, server: ServerProcess, rounds: int) -> None:
        self._server = server
        self.sent: dict[str, Sent] = {}
        self._ports = iter(PORTS)
        self._batches = dealt([i for i in INPUTS if not i.before], rounds)
        self._stack = contextlib.ExitStack()
        self._opened = 0
        self._held: list[socket.socket] = []
        self._turns = [upload for upload in UPLOADS if upload.turn is not Turn.LATE]
        self.mallories: list[Peer] = []
        self._leavers: list[tuple[Peer, Upload]] = []
        self._speakers: list[tuple[Peer, Speech]] = []
        self._overdue: list[tuple[Peer, Upload, bytes]] = []

    def __enter__(self) -> "Attack":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @staticmethod
    def participants() -> int:
        return MALLORIES + sum(upload.turn is Turn.LATE for upload in UPLOADS) + len(SPEECHES)

    def before_anybody(self) -> None:
        """Nobody has registered."""
        self._send_all([i for i in INPUTS if i.before])

    def join(self) -> None:
        """The join window is open."""
        late = [upload for upload in UPLOADS if upload.turn is Turn.LATE]
        self.mallories = [self._peer(f"mallory-{i}") for i in range(MALLORIES)]
        self._leavers = [(self._peer(f"leaver-{i}"), upload) for i, upload in enumerate(late)]
        self._speakers = [(self._peer(f"speaker-{i}"), speech) for i, speech in enumerate(SPEECHES)]

    def in_round(self, number: int) -> None:
        """The honest trainers have the round's model, and none has answered."""
        for speaker, speech in self._speakers:
            self._speak(speaker, speech)
        for leaver, upload in self._leavers:
            body = leaver.body(upload.spoil(received(leaver)), **dict(upload.fields))
            self._overdue.append((leaver, upload, body))
            leaver.connection.close()
        self._speakers, self._leavers = [], []
        self._send_all(self._batches[number - 1])
        for mallory in self.mallories:
            self._answer(mallory)

    def when_it_is_over(self) -> None:
        """The round is committed, and the next one's model is with the honest trainers, if there is a next one."""
        for sock in self._held:
            sock.close()
        for leaver, upload, body in self._overdue:
            self._upload(leaver, upload.name, body)
        self._held, self._overdue = [], []

    def _peer(self, client_id: str) -> Peer:
        return self._stack.enter_context(Peer(self._server, client_id)).join()

    # --- outsiders ---------------------------------------------------------------------------------------------------

    def _send_all(self, batch: Sequence[Input]) -> None:
        for hostile in batch:
            self.sent[hostile.name] = self._send(hostile)
        ended = self._opened - len(self._held)
        query = "SELECT COUNT(*) FROM v1_connections WHERE peer_port BETWEEN ? AND ? AND closed_at NOT NULL"
        self._server.wait_for_sql(f"{query} HAVING COUNT(*) >= ?", PORTS[0], PORTS[-1], ended)

    def _connect(self, host: str = HOME) -> socket.socket:
        """A connection from a port that no other one of this attack has: its rows can be told by it."""
        for port in self._ports:
            try:
                sock = socket.create_connection((HOME, self._server.port), PATIENCE, (host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                self._opened += 1
                return self._stack.enter_context(sock)
        raise AssertionError("no port is left")

    def _send(self, hostile: Input) -> Sent:
        sock = self._connect(ELSEWHERE if hostile.elsewhere else HOME)
        host, port = sock.getsockname()
        answer = b""
        send_what_it_takes(sock, hostile.wire, end=hostile.then is Then.HALF_CLOSE)
        match hostile.then:
            case Then.HALF_CLOSE | Then.WAIT:
                answer = to_the_end(sock)
            case Then.RESET:
                wait_until_read(host, port)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        if hostile.then is Then.HOLD:
            self._held.append(sock)
        else:
            sock.close()
        return Sent(host, port, answer)

    # --- participants ------------------------------------------------------------------------------------------------

    def _speak(self, speaker: Peer, speech: Speech) -> None:
        received(speaker)
        host, port = speaker.connection.getsockname()
        send_what_it_takes(speaker.connection, speech.wire)
        self.sent[speech.name] = Sent(host, port, to_the_end(speaker.connection), message=1)

    def _answer(self, mallory: Peer) -> None:
        """The next wrong upload; before or after it one that is simply rejected, where it answers nothing itself."""
        model = received(mallory)
        upload = self._turns.pop(0) if self._turns else None
        if upload is None or upload.turn is Turn.ANSWERED:
            self._upload(mallory, None, mallory.body(NAN_WEIGHT(fixed_net())))
        if upload is not None:
            self._upload(
                mallory, upload.name, mallory.body(upload.spoil(model), **dict(upload.fields)), upload.trailing
            )
            if upload.turn is Turn.ASKED and upload.decision is None:
                self._upload(mallory, None, mallory.body(NAN_WEIGHT(fixed_net())))

    def _upload(self, peer: Peer, name: str | None, body: bytes, trailing: bytes = b"") -> None:
        with self._connect() as sock:
            host, port = sock.getsockname()
            send_what_it_takes(sock, len(body).to_bytes(8, "big") + body + trailing)
            answer = to_the_end(sock)
        if name is not None:
            self.sent[name] = Sent(host, port, answer)


def received(peer: Peer) -> Net:
    """The round's model, as a participant gets it."""
    model = peer.model()
    assert isinstance(model, Net)
    return model


def dealt(items: Iterable[Item], hands: int) -> list[list[Item]]:
    """Every hand has some of each kind, where the kinds come one after another."""
    all_items = list(items)
    return [all_items[hand::hands] for hand in range(hands)]


def send_what_it_takes(sock: socket.socket, wire: bytes, *, end: bool = True) -> None:
    """Send it, and ``end`` this direction. The server may have refused it, and be gone, before the last byte."""
    with contextlib.suppress(ConnectionError):
        sock.sendall(wire)
    if end:
        with contextlib.suppress(OSError):  # not connected any more
            sock.shutdown(socket.SHUT_WR)


def to_the_end(sock: socket.socket) -> bytes:
    """What comes until the server ends the connection."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def wait_until_read(host: str, port: int) -> None:
    """Until the server has read all that the connection from ``host`` and ``port`` carries: a reset drops the rest."""
    here = f"{int.from_bytes(socket.inet_aton(host), 'little'):08X}:{port:04X}"

    def queues() -> list[str]:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return [row[4] for row in rows if here in row[1:3]]

    eventually(lambda: set(queues()) <= {"00000000:00000000"}, queues, pause=0.002)
