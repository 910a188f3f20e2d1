"""Hundreds and thousands of trainers in one thread, so that the processor is the server's and not theirs."""

import contextlib
import json
import select
import socket
import time
from collections import deque

from tests.bench.answers import SMALL, Answer, Outcome, registration

ARRIVING = 512  # trainers that register at a time: as many as fit in any server's backlog
SCRATCH = 1 << 18  # bytes that are received at once


class Member:
    """A trainer: its first connection, and how far it has received what comes there."""

    __slots__ = ("answer", "client_id", "connection", "head", "kept", "left", "models", "registered")

    def __init__(self, client_id: int, answer: Answer, connection: socket.socket) -> None:
        self.client_id, self.answer, self.connection = client_id, answer, connection
        self.registered = False
        self.models = 0  # and <FINISHED>, received so far
        self.head = bytearray()
        self.left = 0  # bytes of the body that are still to come
        self.kept: bytearray | None = None  # a short body; of a model only the bytes are counted


class Sending:
    """What is still to be sent on a connection, and whose first connection it is; None: an upload."""

    __slots__ = ("connection", "member", "pieces")

    def __init__(self, connection: socket.socket, pieces: list[bytes | memoryview], member: Member | None) -> None:
        self.connection, self.pieces, self.member = connection, pieces, member


class Crowd:
    """The trainers, and an epoll that tells which of their connections can go on."""

    def __init__(self, port: int, first: int, answers: list[Answer]) -> None:
        self._address = ("127.0.0.1", port)
        self._waiting = deque(enumerate(answers, first))
        self._all = len(answers)
        self._arriving = 0
        self._members: dict[int, Member] = {}
        self._sending: dict[int, Sending] = {}
        self._poll = select.epoll()
        self._scratch = memoryview(bytearray(SCRATCH))
        self._outcome = Outcome()

    @classmethod
    def take_part(cls, port: int, first: int, answers: list[Answer]) -> Outcome:
        """One trainer for each answer, with ids from ``first`` on, until all have ended or one was let down."""
        return cls(port, first, answers).run()

    def run(self) -> Outcome:
        outcome = self._outcome
        with contextlib.closing(self._poll):
            while outcome.finished < self._all and outcome.refusal is outcome.failure is None:
                while self._waiting and self._arriving < ARRIVING:
                    self._register(*self._waiting.popleft())
                for descriptor, _ in self._poll.poll():
                    if sending := self._sending.get(descriptor):
                        self._send(sending)
                    elif member := self._members.get(descriptor):
                        self._receive(member)
        return outcome

    def _connect(self) -> socket.socket:
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(self._address)  # what it comes to shows when something is sent
        return connection

    def _register(self, client_id: int, answer: Answer) -> None:
        self._arriving += 1
        member = Member(client_id, answer, self._connect())
        body = registration(client_id)
        self._members[member.connection.fileno()] = member
        self._start(Sending(member.connection, [len(body).to_bytes(8, "big"), body], member))

    def _upload(self, member: Member) -> None:
        tail, shared = Answer.tail(member.client_id), member.answer.shared
        length = (len(shared) + len(tail)).to_bytes(8, "big")
        self._start(Sending(self._connect(), [length, shared, tail], None))

    def _start(self, sending: Sending) -> None:
        """Send what goes at once, which of a small upload is all; the rest when it can go."""
        descriptor = sending.connection.fileno()
        self._poll.register(descriptor, select.EPOLLOUT)
        self._sending[descriptor] = sending
        self._send(sending)

    def _send(self, sending: Sending) -> None:
        try:
            sent = sending.connection.sendmsg(sending.pieces)
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(sending.member, error)
            return
        while sending.pieces and sent >= len(sending.pieces[0]):
            sent -= len(sending.pieces.pop(0))
        if sending.pieces:
            sending.pieces[0] = memoryview(sending.pieces[0])[sent:]
            return
        descriptor = sending.connection.fileno()
        del self._sending[descriptor]
        if sending.member is None:
            sending.connection.close()  # which also takes it out of the epoll
        else:
            self._poll.modify(descriptor, select.EPOLLIN)

    def _receive(self, member: Member) -> None:
        try:
            count = member.connection.recv_into(self._scratch)
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(member, error)
            return
        if count == 0:
            self._failed(member, EOFError("the connection ended"))
            return
        view = self._scratch[:count]
        while view:
            if member.left == 0:
                missing = 8 - len(member.head)
                member.head += view[:missing]
                view = view[missing:]
                if len(member.head) == 8:
                    member.left = int.from_bytes(member.head, "big")
                    member.head.clear()
                    member.kept = bytearray() if member.left < SMALL else None
                continue
            taken = min(member.left, len(view))
            if member.kept is not None:
                member.kept += view[:taken]
            member.left -= taken
            view = view[taken:]
            if member.left == 0:
                self._received(member, member.kept)

    def _received(self, member: Member, short: bytearray | None) -> None:
        """A whole body is there; only a short one has been kept."""
        outcome = self._outcome
        if not member.registered:
            self._arriving -= 1
            if short is None or json.loads(short)["header"] != "<SUCCESS>":
                outcome.refusal = outcome.refusal or ("a long answer" if short is None else short.decode())
                return
            member.registered = True
            outcome.registered += 1
            return
        now = time.monotonic()
        if len(outcome.moments) == member.models:
            outcome.moments.append(now)
        outcome.moments[member.models] = now
        member.models += 1
        if short is None:
            self._upload(member)
        elif b"<FINISHED>" in short:
            outcome.finished += 1
            del self._members[member.connection.fileno()]
            member.connection.close()
        else:
            outcome.failure = short.decode()

    def _failed(self, member: Member | None, error: Exception) -> None:
        """A connection broke; ``member`` is whose first it was, None for an upload."""
        said = f"{type(error).__name__}: {error}"
        if member is not None and not member.registered:
            self._outcome.refusal = self._outcome.refusal or said
        else:
            self._outcome.failure = self._outcome.failure or said
