"""The listening socket: on whichever address it is told."""

import socket
from contextlib import closing

import pytest

from flserver.errors import UsageError
from flserver.network.listener import Listener
from flserver.settings.hosts import addresses
from tests.hosts import LINK_LOCAL, needs_ipv6, needs_link_local
from tests.patience import PATIENCE


def reached(host: str, port: int) -> bool:
    family, address = addresses(host, port, "--host")[0]
    with socket.socket(family) as peer:
        peer.settimeout(PATIENCE)
        return peer.connect_ex(address) == 0


@pytest.mark.parametrize(
    ("host", "at"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("", "0.0.0.0"),
        pytest.param("::1", "::1", marks=needs_ipv6),
        pytest.param("[::1]", "::1", marks=needs_ipv6),
    ],
)
def test_it_listens_where_it_is_told(host: str, at: str) -> None:
    with closing(Listener(host, 0)) as listener:
        assert listener.address[0] == at
        assert reached(host or "127.0.0.1", listener.address[1])


@needs_link_local
@pytest.mark.parametrize("form", ["{}", "[{}]"])
def test_it_listens_on_a_link_local_address_of_one_network(form: str) -> None:
    assert LINK_LOCAL is not None
    with closing(Listener(form.format(LINK_LOCAL), 0)) as listener:
        assert listener.address[0] == LINK_LOCAL
        assert reached(LINK_LOCAL, listener.address[1])
        assert not reached("::1", listener.address[1])


@needs_ipv6
@pytest.mark.parametrize("host", ["::", "[::]", "0::0"])
def test_all_addresses_are_those_of_both_kinds(host: str) -> None:
    with closing(Listener(host, 0)) as listener:
        assert reached("127.0.0.1", listener.address[1])
        assert reached("::1", listener.address[1])


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("no-such-host.invalid", r"^--host no-such-host\.invalid does not resolve: "),
        ("[::1]:50052", r"^--host \[::1\]:50052 does not resolve: "),
        ("192.0.2.1", r"^--host 192\.0\.2\.1 --server-port 50052: Cannot assign requested address$"),
    ],
)
def test_where_it_cannot_listen_is_one_line(host: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as told:
        Listener(host, 50052)
    assert "\n" not in str(told.value)
