"""Where a server listens, when the port is somebody's connection's for now."""

import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from flserver.errors import PortBusy, PortTaken
from flserver.process.launch import PORT_PATIENCE, listen_when_free
from flserver.process.signals import Signals
from flserver.settings import NetworkPolicy, server_settings
from tests.network.outgoing import outgoing, port_of

RESERVED = Path(__file__).parents[2] / "ops" / "systemd" / "flserver.sysctl.conf"


class Pauses:
    """Signals that do not come, but for ``received``; each wait for them is a pause after which ``then`` is done."""

    def __init__(self, then: Callable[[int], None], received: bool = False) -> None:
        self.count = 0
        self.received = received
        self._then = then

    def wait(self, seconds: float) -> None:
        self.count += 1
        self._then(self.count)


def policy(port: int) -> NetworkPolicy:
    return server_settings({"server_port": port}).network


def test_it_listens_when_the_connection_is_over_and_says_once_what_it_waits_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with outgoing() as connection:
        port = port_of(connection)
        pauses = Pauses(lambda count: connection.close() if count == 3 else None)
        listener = listen_when_free(policy(port), cast(Signals, pauses))
    assert listener.address == ("127.0.0.1", port)
    listener.close()
    assert pauses.count == 3
    ((_, level, line),) = caplog.record_tuples
    assert level == logging.WARNING
    assert "by a connection of another program" in line
    assert line.endswith("; trying again for up to 60 s")
    assert PORT_PATIENCE == 60


def test_after_its_patience_it_gives_up() -> None:
    with outgoing() as connection:
        pauses = Pauses(lambda count: None)
        with pytest.raises(PortBusy, match=r"net\.ipv4\.ip_local_reserved_ports"):
            listen_when_free(policy(port_of(connection)), cast(Signals, pauses), patience=0.001)


@pytest.mark.parametrize("took_over", [True, False])
def test_a_port_that_somebody_listens_on_is_waited_for_where_the_run_was_taken_over(took_over: bool) -> None:
    """Its server may be on this machine, and not quite gone."""
    with socket.create_server(("127.0.0.1", 0)) as before:
        port = port_of(before)
        pauses = Pauses(lambda count: before.close() if count == 2 else None)
        if not took_over:
            with pytest.raises(PortTaken, match=r"in use: end what listens there \(ss -ltnp shows it\)"):
                listen_when_free(policy(port), cast(Signals, pauses))
            return
        listener = listen_when_free(policy(port), cast(Signals, pauses), took_over=True)
    assert listener.address == ("127.0.0.1", port)
    listener.close()
    assert pauses.count == 2


def test_a_signal_ends_the_wait() -> None:
    with outgoing() as connection:
        pauses = Pauses(lambda count: None, received=True)
        with pytest.raises(KeyboardInterrupt):
            listen_when_free(policy(port_of(connection)), cast(Signals, pauses))
    assert pauses.count == 1


def test_the_port_that_is_reserved_at_installation_is_the_default_one() -> None:
    assert RESERVED.read_text().endswith(f"ip_local_reserved_ports = {server_settings({}).network.server_port}\n")
