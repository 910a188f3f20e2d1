"""Hosts as people write them."""

import socket

import pytest

from flserver.errors import UsageError
from flserver.settings.hosts import Unresolved, addresses, bare, with_port
from tests.hosts import needs_ipv6


@pytest.mark.parametrize(
    ("host", "plain", "written"),
    [
        ("::1", "::1", "[::1]:7"),
        ("[::1]", "::1", "[::1]:7"),
        ("[fe80::1%eth0]", "fe80::1%eth0", "[fe80::1%eth0]:7"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1:7"),
        ("localhost", "localhost", "localhost:7"),
        ("[localhost]", "[localhost]", "[localhost]:7"),
        ("[::1", "[::1", "[[::1]:7"),
        ("", "", ":7"),
    ],
)
def test_brackets_are_for_ipv6_and_are_no_part_of_the_address(host: str, plain: str, written: str) -> None:
    assert bare(host) == plain
    assert with_port(host, 7) == written


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "[::1]", "0::1", "[0:0:0:0:0:0:0:1]"])
def test_an_ipv6_address_in_any_form(host: str) -> None:
    assert addresses(host, 7, "--host") == [(socket.AF_INET6, ("::1", 7, 0, 0))]


@needs_ipv6
def test_a_zone_is_kept() -> None:
    name, number = socket.if_indextoname(1), 1
    for host in (f"fe80::7%{name}", f"[fe80::7%{name}]", f"fe80::7%{number}"):
        assert addresses(host, 7, "--host") == [(socket.AF_INET6, ("fe80::7", 7, 0, 1))]
    with pytest.raises(Unresolved, match="--host fe80::7%nowhere0 does not resolve"):
        addresses("fe80::7%nowhere0", 7, "--host")
    with pytest.raises(UsageError, match=r"--metrics-host \[fe80::7\] .* needs a zone, as in fe80::7%eth0"):
        addresses("[fe80::7]", 7, "--metrics-host")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "127.0.0.1:50052", "[::1]:50052", "[localhost]", "a b", ""])
def test_a_name_that_does_not_resolve_says_so(host: str) -> None:
    with pytest.raises(Unresolved) as told:
        addresses(host, 7, "--host")
    assert str(told.value).startswith(f"--host {host} does not resolve: ")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("host", ["a" * 70, "..", "a..b"])
def test_what_can_be_no_name_is_told_by_the_option_it_came_from(host: str) -> None:
    with pytest.raises(UsageError, match=f"^--host {host.replace('.', '[.]')}: ") as told:
        addresses(host, 7, "--host")
    assert not isinstance(told.value, Unresolved), "it will be none later either"


def test_ipv4_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 1, 0, 0)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 1, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    expected = [(socket.AF_INET, ("127.0.0.1", 1)), (socket.AF_INET6, ("::1", 1, 0, 0))]
    assert addresses("localhost", 1, "--host") == expected, "and what lacks its zone is of no use"
