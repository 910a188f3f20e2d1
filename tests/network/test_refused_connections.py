"""Between refused and closed: a connection that was told why is there until that was read, and in nobody's way."""

from collections.abc import Iterator

import pytest

from flserver import events as e
from flserver.network.server import MADE_ROOM
from tests.network.frames import framed
from tests.network.port import AWAY, HOME, Port, ended
from tests.network.served import Network
from tests.patience import PATIENCE, eventually

NO_REGISTRATION = framed(b'{"header": "<METADATA>"}')


@pytest.fixture
def port(network: Network, monkeypatch: pytest.MonkeyPatch) -> Iterator[Port]:
    """Four places, three of one address. Who is refused lingers for longer than the test takes."""
    monkeypatch.setattr("flserver.network.session.LINGER_SECONDS", 3 * PATIENCE)
    with Port(network, in_all=4, an_address=3) as port:
        yield port


def refused(port: Port, host: str = HOME) -> None:
    """A connection whose peer was refused and told so, and does not go."""
    told = len(port.server._told)
    before = len(port.recorder.of(e.ConnectionClosed))
    assert b"<ERROR>" in port.connect(host, NO_REGISTRATION).recv(1024)
    eventually(lambda: len(port.server._told) > told or len(port.recorder.of(e.ConnectionClosed)) > before)


def test_who_was_refused_holds_no_place(port: Port) -> None:
    for _ in range(3):
        refused(port)
    for client_id in "abc":
        port.registered(client_id)
    assert all(reason != "not served" for _, reason in port.closed(1))


def test_who_was_refused_goes_before_who_has_said_nothing_yet(port: Port) -> None:
    silent = [port.connect(AWAY) for _ in range(2)]
    for _ in range(2):
        refused(port)
    port.registered("a")
    assert {number for number, _ in port.closed(1)} == {3}, "the first that was refused"
    port.registered("b")
    assert {number for number, _ in port.closed(2)} == {3, 4}
    port.registered("c")
    assert ended(silent[0])
    assert (1, MADE_ROOM) in port.closed(3)


def test_its_record_says_why_it_was_refused_and_not_that_it_was_cut(port: Port) -> None:
    for _ in range(4):
        refused(port)
    for client_id, host in zip("abcd", [HOME, HOME, HOME, AWAY], strict=True):
        port.registered(client_id, host)
    reasons = [reason for _, reason in port.closed(4)]
    assert all("is not a client id" in reason for reason in reasons), reasons


def test_many_that_are_refused_take_no_more_threads_than_there_are_places(port: Port) -> None:
    for _ in range(40):
        refused(port)
        eventually(lambda: len(port.server._served) <= 4)  # those that were cut may still be ending
    port.registered("a")
