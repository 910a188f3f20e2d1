"""Who has a port that cannot be listened on."""

import socket
from contextlib import ExitStack

import pytest

from flserver.errors import PortBusy, PortTaken, UsageError
from flserver.network.busy_port import connection_on
from flserver.network.listener import Listener
from tests.network.outgoing import AT_ONCE, outgoing, port_of


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connection_that_goes_out_from_the_port_is_found_with_where_it_leads_to(host: str) -> None:
    with outgoing(host) as connection:
        there, service = connection.getpeername()[:2]
        leads_to = f"[{there}]:{service}" if ":" in host else f"{there}:{service}"
        assert leads_to in str(connection_on(port_of(connection))), "others' may have the port too, to other places"
        with pytest.raises(PortBusy, match="Address already in use by a connection of another program, to ") as caught:
            Listener(host, port_of(connection))
        assert leads_to in str(caught.value)
        assert f"net.ipv4.ip_local_reserved_ports={port_of(connection)}" in str(caught.value)
        assert connection_on(service) is None, "there somebody listens, whatever connections have come in"


def test_a_connection_that_has_just_ended_has_its_port_for_a_while() -> None:
    with socket.create_server(("127.0.0.1", 0)) as service:
        with socket.create_connection(service.getsockname()) as connection:
            port = port_of(connection)
        service.accept()[0].close()
        assert f"127.0.0.1:{service.getsockname()[1]}" in str(connection_on(port))


def test_a_port_that_somebody_listens_on_or_keeps_is_no_connections() -> None:
    with socket.create_server(("127.0.0.1", 0)) as service, socket.create_connection(service.getsockname()):
        with pytest.raises(UsageError, match=r"Address already in use: end what listens there") as listened:
            Listener("127.0.0.1", service.getsockname()[1])
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        with pytest.raises(UsageError, match=r"Address already in use: end what listens there") as bound:
            Listener("127.0.0.1", port_of(kept))
    assert type(listened.value) is type(bound.value) is PortTaken


def test_of_several_connections_each_is_named() -> None:
    """The system gives one port to several connections that lead to different places: to another program's too."""
    with ExitStack() as stack:
        services = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        port = 0
        for service in services:
            made = stack.enter_context(socket.socket())
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            made.bind(("127.0.0.1", port))
            port = port_of(made)
            made.connect(service.getsockname())
        found = str(connection_on(port))
        assert [f"127.0.0.1:{port_of(service)}" in found for service in services] == [True, True], found


def test_a_port_that_nobody_has() -> None:
    for _ in range(20):  # another program may get the same one meanwhile
        with outgoing() as connection:
            port = port_of(connection)
        if connection_on(port) is None:
            break
    assert connection_on(port) is None
    Listener("127.0.0.1", port).close()
