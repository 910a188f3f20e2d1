"""The places of an address: who takes one, and who of that address makes room for it."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flserver import events as e
from flserver.network.preamble import Preamble, networks
from flserver.network.server import MADE_ROOM
from tests.e2e.forwarder import host_of, version_1
from tests.network.port import AWAY, FAR, HOME, Port, ended, made_room
from tests.network.served import Network
from tests.patience import PATIENCE, eventually


def test_an_address_has_no_more_than_its_connections(network: Network) -> None:
    with Port(network, an_address=2) as port:
        port.connect(AWAY)
        port.connect(HOME)
        port.connect(HOME)
        port.connect(HOME)
        assert made_room(port, 1) == [2], "one of its own"
        assert port.registered("a", FAR)


def test_an_address_full_of_clients_has_a_place_for_the_upload_of_each_and_no_more(network: Network) -> None:
    with Port(network, an_address=2) as port:
        for client_id in "ab":
            port.registered(client_id, HOME)
        one, _ = port.connect(HOME), port.connect(HOME)
        assert port.registered("c", AWAY)
        assert port.closed(0) == []
        port.connect(HOME)
        assert ended(one)
        assert made_room(port, 1) == [3], "it is its neighbours' business alone"


def test_behind_a_forwarder_the_address_is_its_clients(network_of: Callable[..., Network]) -> None:
    network = network_of(preamble=Preamble(tls=None, proxies=networks("127.0.0.1"), seconds=PATIENCE))
    with Port(network, an_address=2) as port:
        for number in (1, 2, 1, 3, 1):
            port.connect(header=version_1(number))
        assert made_room(port, 1) == [1]
        hosts = [event.peer_host for event in port.recorder.of(e.PeerIdentified)]
        assert hosts == [host_of(number) for number in (1, 2, 1, 3, 1)]


@contextmanager
def held(port: Port, at: type[e.Event]) -> Iterator[threading.Event]:
    """The next session that comes to this event waits there until the event given is set."""
    go_on = threading.Event()

    def hold() -> None:
        port.recorder.before.clear()
        go_on.wait(PATIENCE)

    port.recorder.before[at] = hold
    try:
        yield go_on
    finally:
        go_on.set()


@contextmanager
def slow(port: Port) -> Iterator[threading.Event]:
    """A silent connection from HOME, whose session comes to take its place when the event is set."""
    with held(port, e.ConnectionOpened) as go_on, socket.create_connection(port.listener.address, PATIENCE):
        eventually(lambda: not port.recorder.before)
        yield go_on


def test_of_two_that_come_at_once_one_makes_room_and_not_each_for_the_other(network: Network) -> None:
    with Port(network, an_address=2) as port:
        port.registered("a")  # 1
        with slow(port) as go_on:  # 2
            port.connect()  # 3
            assert port.closed(0) == [], "two have their places"
            go_on.set()
            assert port.closed(1) == [(3, MADE_ROOM)]
            eventually(lambda: port.server.open_connections == 2)
            assert port.server._cut == set(), "and 2 has its place"


def test_who_was_cut_before_it_took_a_place_takes_nobodys(network: Network) -> None:
    with Port(network, in_all=3, an_address=2) as port:
        port.registered("a")  # 1
        with slow(port) as go_on:  # 2
            port.connect()  # 3, which may be a's upload
            port.connect(AWAY)  # 4
            go_on.set()
            assert port.closed(1) == [(2, MADE_ROOM)]
            eventually(lambda: port.server.open_connections == 3)
            assert port.server._cut == set(), "nobody goes for it"


def test_who_made_room_is_in_nobodys_way_while_it_goes(network: Network) -> None:
    with Port(network, an_address=1) as port:
        one = port.connect()
        with held(port, e.ConnectionClosed):
            two = port.connect()
            assert ended(one)
            eventually(lambda: not port.recorder.before)
            two.close()
            assert port.closed(1) == [(2, "end of file in the middle of a frame")]
            assert port.registered("a")
