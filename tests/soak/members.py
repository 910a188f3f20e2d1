"""Participants who are hostile, and those who would be: they fill an address's places, hold rounds up in turn, and keep
the join window busy.

They call themselves what a spreadsheet would calculate, and say of themselves what a terminal would obey.
"""

import contextlib
import json
import socket
import threading

import torch

from flserver.clock import Deadline
from tests.e2e.harness import receive, send
from tests.e2e.hostile.costs import FORMULAS, NASTY
from tests.patience import PATIENCE
from tests.soak.ledger import Ledger, until_closed
from tests.soak.net import Net
from tests.soak.strangers import sound_upload

CROWD, NEWCOMERS = "127.0.0.2", "127.0.0.3"  # where they come from
PLACES = 6  # that an address has for clients
TRIED = PLACES + 2
RETRY = 0.02  # seconds until a registration is tried again
PACE = 0.05  # seconds between two that keep the window busy
STARTED, TOO_MANY = "already started the training", "Too many clients have registered"


def ask(ledger: Ledger, kind: str, client_id: str, host: str) -> tuple[socket.socket, str]:
    """A registration: its connection, and "" where it is taken, else what was said."""
    connection = ledger.connect(kind, host)
    fields = {"header": "<METADATA>", "id": client_id, "data_size": 1, "info": {"lab": NASTY, NASTY: [NASTY]}}
    send(connection, json.dumps(fields).encode())
    answer = json.loads(receive(connection))
    if answer["header"] == "<SUCCESS>":
        ledger.count("registrations")
        return connection, ""
    return connection, str(answer["msg"])


class TurnTaker(threading.Thread):
    """One of a crowd that fills the places of its address. With every model that it gets it registers a second time,
    speaks out of turn, so that it is let go, uploads what cannot count, and takes its place again.

    ``there`` is set when it has its place again after the first round, or none; ``left_out`` says that there was none.
    """

    def __init__(self, ledger: Ledger, number: int) -> None:
        super().__init__(name=f"turn-taker-{number}")
        self.client_id = FORMULAS[number] if number < len(FORMULAS) else f"taker {number}"
        self._ledger = ledger
        poisoned = Net()
        torch.nn.init.constant_(poisoned.fc1.weight, float("nan"))
        self._body = sound_upload(self.client_id, poisoned)
        self._lock = threading.Lock()  # guards the two below
        self._retired = False
        self._connection: socket.socket | None = None
        self.registered, self.there = threading.Event(), threading.Event()
        self.left_out = False

    def run(self) -> None:
        try:
            self._work()
        except Exception as error:
            if not self._retired:
                self._ledger.complain(f"turn taker {self.client_id}: {type(error).__name__}: {error}")
        finally:
            self.registered.set()
            self.there.set()
            with self._lock:
                if self._connection is not None:
                    self._connection.close()

    def retire(self) -> None:
        """Leave for good, whatever it is doing."""
        with self._lock:
            self._retired = True
            if self._connection is not None:
                with contextlib.suppress(OSError):  # closed already, or by the other side
                    self._connection.shutdown(socket.SHUT_RDWR)

    def _work(self) -> None:
        while self._take_place():
            if self.registered.is_set():
                self.there.set()
            self.registered.set()
            assert self._connection is not None
            if b"<FINISHED>" in receive(self._connection)[:200]:
                raise EOFError("the server ended the run")
            self._ledger.note("takes_turns", "was invited")
            self._take_turn(self._connection)

    def _take_turn(self, connection: socket.socket) -> None:
        again, said = ask(self._ledger, "takes_turns", self.client_id, CROWD)
        with again:
            self._ledger.note("takes_turns", "a second registration was refused" if said else "was there twice")
        connection.sendall(b"hello?")
        connection.shutdown(socket.SHUT_WR)
        until_closed(connection)
        self._ledger.note("takes_turns", "was let go")
        connection.close()
        with self._ledger.connect("takes_turns", CROWD) as upload:
            send(upload, self._body)
            upload.shutdown(socket.SHUT_WR)
            until_closed(upload)
        self._ledger.count("uploads")

    def _take_place(self) -> bool:
        """Whether it has one."""
        waiting = threading.Event()  # for what another process does there is nothing to wait for
        for _ in range(int(PATIENCE / RETRY)):
            connection, said = ask(self._ledger, "takes_places", self.client_id, CROWD)
            with self._lock:
                if not said and not self._retired:
                    self._connection = connection
                    self._ledger.note("takes_places", "has one")
                    return True
            connection.close()
            if self._retired:
                return False
            if "full for" in said:
                self._ledger.note("takes_places", "was refused")
                self.left_out = True
                return False
            waiting.wait(RETRY)
        raise EOFError("its registration is refused for ever")


class Visitors:
    """They register while the join window is open, and leave again."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def before_anybody(self) -> None:
        """One comes and goes: it was never there."""
        connection, said = ask(self._ledger, "visits", "visitor", NEWCOMERS)
        connection.close()
        self._ledger.note("visits", "was refused" if said else "registered and left")
        self._ledger.server.wait_for_sql("SELECT 1 FROM v1_clients WHERE client_id = 'visitor' AND left_at NOT NULL")

    def until_it_closes(self) -> None:
        """Ever new ones, two of them there at a time, until one is told that the training has begun. Then the first one
        comes again. On a busy machine their address has had too many by then, and is told so for a while."""
        there: list[socket.socket] = []
        waiting = threading.Event()
        try:
            for number in range(int(PATIENCE / PACE)):
                connection, said = ask(self._ledger, "visits", f"visitor {number}", NEWCOMERS)
                there.append(connection)
                self._ledger.note("visits", "was refused" if said else "registered and left")
                if STARTED in said:
                    break
                if len(there) > 2:
                    there.pop(0).close()
                waiting.wait(PACE)
            else:
                self._ledger.complain(f"registrations kept the join window open for {PATIENCE:g} s")
            connection, said = self._ask_until_there_are_not_too_many()
            there.append(connection)
            if STARTED not in said:
                self._ledger.complain(f"who left before the window closed was answered {said!r}")
            self._ledger.note("visits", "came again, and was refused" if said else "came again")
        finally:
            for connection in there:
                connection.close()

    def _ask_until_there_are_not_too_many(self) -> tuple[socket.socket, str]:
        deadline, waiting = Deadline.after(PATIENCE), threading.Event()
        while True:
            connection, said = ask(self._ledger, "visits", "visitor", NEWCOMERS)
            if TOO_MANY not in said or deadline.passed:
                return connection, said
            connection.close()
            waiting.wait(0.5)
