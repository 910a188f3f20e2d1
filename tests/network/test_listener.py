"""The listening socket: where it listens, what is said when it cannot, and that closing it wakes who waits on it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from flserver.errors import UsageError
from flserver.network.listener import BACKLOG, Beside, Listener, Reservation
from tests.patience import PATIENCE

HAS_IPV6 = socket.has_ipv6 and socket.has_dualstack_ipv6()


def reached(host: str, port: int) -> str:
    """The address of ours that a connection there comes to."""
    with socket.create_connection((host, port), timeout=PATIENCE) as connection:
        return str(connection.getsockname()[0])


@pytest.fixture
def open_listener(request: pytest.FixtureRequest) -> Iterator[Listener]:
    with closing(Listener(getattr(request, "param", "127.0.0.1"), 0)) as listener:
        yield listener


def test_port_0_is_any_free_one_and_the_address_says_which(open_listener: Listener) -> None:
    host, port = open_listener.address
    assert (host, port > 0) == ("127.0.0.1", True)
    assert reached(host, port) == "127.0.0.1"


def test_a_port_in_use_is_said_in_one_line(open_listener: Listener) -> None:
    _, port = open_listener.address
    with pytest.raises(UsageError) as caught:
        Listener("127.0.0.1", port)
    said, what_to_do = str(caught.value).split(": end ")
    assert said == f"--host 127.0.0.1 --server-port {port}: Address already in use"
    assert what_to_do == "what listens there (ss -ltnp shows it), or give another"


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("192.0.2.1", "--host 192.0.2.1 --server-port 0: Cannot assign requested address"),
    ],
    ids=["of another machine"],
)
def test_a_host_that_is_not_ours_is_said_in_one_line(host: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        Listener(host, 0)
    assert str(caught.value) == reason


@pytest.mark.skipif(not HAS_IPV6, reason="needs IPv6")
@pytest.mark.parametrize(("open_listener", "family"), [("::1", "6"), ("::", "both")], indirect=["open_listener"])
def test_ipv6_alone_and_both_where_all_addresses_are_meant(open_listener: Listener, family: str) -> None:
    _, port = open_listener.address
    assert reached("::1", port) == "::1"
    if family == "both":
        assert reached("127.0.0.1", port) == "127.0.0.1"
    else:
        with pytest.raises(ConnectionRefusedError):
            reached("127.0.0.1", port)


def test_who_comes_before_anybody_accepts_waits_in_the_backlog(open_listener: Listener) -> None:
    """As trainers do while torch is being imported."""
    waiting = [socket.create_connection(open_listener.address, timeout=PATIENCE) for _ in range(200)]
    try:
        for connection in waiting:
            connection.sendall(b"hello")
        accepted, _ = open_listener.socket.accept()
        with accepted:
            accepted.settimeout(PATIENCE)
            assert accepted.recv(5) == b"hello"
    finally:
        for connection in waiting:
            connection.close()
    assert len(waiting) < BACKLOG


def test_closing_wakes_who_is_blocked_in_accept(open_listener: Listener) -> None:
    woke, address = threading.Event(), open_listener.address

    def accept() -> None:
        with suppress(OSError):
            open_listener.socket.accept()[0].close()
        woke.set()

    thread = threading.Thread(target=accept)
    thread.start()
    assert not woke.wait(0.1)
    open_listener.close()
    try:
        assert woke.wait(PATIENCE)
    finally:
        if not woke.is_set():  # who is still blocked there accepts still
            reached(*address)
        thread.join()
    open_listener.close()  # a second call does nothing


@pytest.mark.parametrize(
    "host", ["127.0.0.1", pytest.param("::", marks=pytest.mark.skipif(not HAS_IPV6, reason="IPv6"))]
)
@pytest.mark.parametrize("any_port", [True, False])
def test_several_share_a_port_that_nobody_else_gets(host: str, any_port: bool) -> None:
    with closing(Listener(host, 0)) as other:
        port = other.address[1]
        with pytest.raises(UsageError, match="Address already in use"):
            Reservation(host, port)
    with closing(Reservation(host, 0 if any_port else port)) as reserved:
        port = reserved.address[1]
        for another in (Listener, Reservation):
            with pytest.raises(UsageError, match="Address already in use"):
                another(host, port)
        with pytest.raises(ConnectionRefusedError):
            reached("127.0.0.1", port)
        with closing(Listener(host, port, beside=True)) as one, closing(Listener(host, port, beside=True)) as two:
            came = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) for _ in range(64)]
            accepted = [listener.socket.accept()[0] for listener in (one, two)]  # each has some
            for connection in (*came, *accepted):
                connection.close()
            with pytest.raises(UsageError, match="Address already in use"):
                Listener(host, port)
        with pytest.raises(UsageError, match="Address already in use"):
            Listener(host, port)
    Listener(host, port).close()


def test_a_port_that_others_share_is_had_beside_them_and_kept_from_everybody_else() -> None:
    with closing(Listener("127.0.0.1", 0, beside=True)) as first:
        host, port = first.address
        with closing(Beside(host, port)) as beside:
            assert beside.address == (host, port)
            assert beside.door == ()
            with socket.create_connection((host, port), timeout=PATIENCE):
                assert first.await_connection(PATIENCE)  # nobody comes to the other one
            first.close()
            with pytest.raises(UsageError, match="Address already in use"):
                Listener(host, port)
            with closing(Listener(host, port, beside=True)):
                assert reached(host, port) == host
    with closing(Listener("127.0.0.1", 0)) as alone, pytest.raises(UsageError, match="Address already in use"):
        Beside(*alone.address)
