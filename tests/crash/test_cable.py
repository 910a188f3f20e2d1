"""What lies between a server and its database passes all on, and fails where it is told to."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.crash.cable import COMMIT, Cable, Cut
from tests.e2e.harness import closed, connect
from tests.patience import PATIENCE


class Ends:
    """A cable with a connection through it, at whose ends are a server and a database."""

    def __init__(self, cable: Cable, listener: socket.socket) -> None:
        self.cable, self._listener, self._all = cable, listener, ExitStack()
        self.server, self.database = self.connect()

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """Both ends of another one."""
        server = self._all.enter_context(connect(self.cable.port))
        database = self._all.enter_context(self._listener.accept()[0])
        database.settimeout(PATIENCE)
        return server, database

    def ask(self, *pieces: bytes) -> list[bytes]:
        """Each is sent, and comes; what came."""
        came = []
        for piece in pieces:
            self.server.sendall(piece)
            came.append(self.database.recv(100))
        return came

    def close(self) -> None:
        self._all.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    with socket.create_server(("127.0.0.1", 0)) as listener, Cable(listener.getsockname()[1], begins=b"a") as cable:
        ends = Ends(cable, listener)
        yield ends
        ends.close()


def nothing(end: socket.socket) -> bool:
    """Whether nothing comes for a while."""
    end.settimeout(0.05)
    try:
        return end.recv(1) is None
    except TimeoutError:
        return True
    finally:
        end.settimeout(PATIENCE)


def test_pieces_are_counted_by_kind_from_the_one_on_that_begins(ends: Ends) -> None:
    assert ends.ask(b"x", COMMIT, b"a", b"b", COMMIT) == [b"x", COMMIT, b"a", b"b", COMMIT]
    ends.database.sendall(b"done")
    assert ends.server.recv(100) == b"done"
    assert ends.cable.counts == {"statement": 2, "commit": 1}


def test_what_is_cut_when_asked_never_comes_and_what_is_cut_when_answered_is_never_heard(ends: Ends) -> None:
    told: list[str] = []
    ends.cable.cut, ends.cable.on_cut = Cut("commit", "asked", 2), lambda: told.append("asked")
    ends.ask(b"a", COMMIT)
    ends.server.sendall(COMMIT)
    assert nothing(ends.database)
    assert told == ["asked"]
    ends.server.close()
    assert closed(ends.database)
    ends.server, ends.database = ends.connect()
    ends.cable.was_cut, ends.cable.cut = False, Cut("statement", "answered", 2)
    assert ends.ask(b"b") == [b"b"]
    ends.database.sendall(b"done")
    assert nothing(ends.server)
    ends.database.close()
    assert closed(ends.server)


def test_what_was_said_into_a_silence_comes_once_it_is_over_and_nothing_closes_before(ends: Ends) -> None:
    cable = ends.cable
    cable.cut, cable.on_cut = Cut("statement", "asked", 2), lambda: cable.hush(until_given_up=True)
    ends.ask(b"a")
    ends.server.sendall(b"b")
    assert nothing(ends.database)
    ends.server.sendall(b"c")
    ends.database.sendall(b"away")
    ends.database.shutdown(socket.SHUT_WR)
    assert nothing(ends.server)
    ends.server.close()  # it has given up
    assert ends.database.recv(100) == b"bc"
    assert closed(ends.database)
    ends.server, ends.database = ends.connect()
    assert ends.ask(b"again") == [b"again"]


def test_a_silence_can_be_ended_by_whoever_waits_for_something_else(ends: Ends) -> None:
    cable = ends.cable
    cable.cut, cable.on_cut = Cut("statement", "asked", 1), lambda: cable.hush(until_given_up=False)
    ends.server.sendall(b"a")
    assert nothing(ends.database)
    cable.heal()
    assert ends.database.recv(100) == b"a"


def test_a_reset_ends_every_connection_and_lets_new_ones_through(ends: Ends) -> None:
    ends.cable.cut, ends.cable.on_cut = Cut("statement", "asked", 1), ends.cable.reset
    other = ends.connect()
    ends.server.sendall(b"a")
    assert all(map(closed, (ends.server, ends.database, *other)))
    ends.cable.was_cut = False
    ends.server, ends.database = ends.connect()
    assert ends.ask(b"b") == [b"b"]
