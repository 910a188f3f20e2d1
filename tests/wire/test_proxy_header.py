"""The PROXY protocol's header: byte by byte, and not one too many."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserver.errors import FrameRefused
from flserver.wire.proxy_header import V1_LONGEST, V2_LONGEST, V2_SIGNATURE, ProxyHeader, plain_host


def v2(command: int = 1, family: int = 0x11, addresses: bytes = b"", more: bytes = b"", version: int = 2) -> bytes:
    body = addresses + more
    return V2_SIGNATURE + bytes([version << 4 | command, family]) + struct.pack(">H", len(body)) + body


V4 = socket.inet_aton("10.1.2.3") + socket.inet_aton("10.0.0.1") + struct.pack(">HH", 5555, 50052)
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7") + bytes(16) + struct.pack(">HH", 5555, 50052)
MAPPED = socket.inet_pton(socket.AF_INET6, "::ffff:10.1.2.3") + bytes(16) + struct.pack(">HH", 5555, 50052)

WHOLE = [
    (b"PROXY TCP4 10.1.2.3 10.0.0.1 5555 50052\r\n", ("10.1.2.3", 5555)),
    (b"PROXY TCP6 2001:db8::7 ::1 5555 50052\r\n", ("2001:db8::7", 5555)),
    (b"PROXY TCP6 ::ffff:10.1.2.3 ::1 5555 50052\r\n", ("10.1.2.3", 5555)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff:: ffff:: 65535 65535\r\n", None),
    (v2(addresses=V4), ("10.1.2.3", 5555)),
    (v2(addresses=V4, more=b"\x04\x00\x03abc"), ("10.1.2.3", 5555)),
    (v2(family=0x21, addresses=V6), ("2001:db8::7", 5555)),
    (v2(family=0x21, addresses=MAPPED), ("10.1.2.3", 5555)),
    (v2(command=0), None),
    (v2(command=0, addresses=V4), None),
    (v2(family=0x31, addresses=bytes(216)), None),  # a Unix socket's
    (v2(family=0x00), None),
]


def read(data: bytes) -> tuple[ProxyHeader, bytes]:
    """The header, and what is left of the data."""
    header = ProxyHeader()
    while (wanted := header.wants) > 0:
        assert len(data) >= wanted, "more is asked for than there is"
        header.feed(data[:wanted])
        data = data[wanted:]
    return header, data


@pytest.mark.parametrize(("data", "source"), WHOLE)
def test_a_header_is_read_to_its_last_byte_and_no_further(data: bytes, source: tuple[str, int] | None) -> None:
    header, left = read(data + b"the frame")
    assert (header.source, left) == (source, b"the frame")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "no PROXY protocol header"),
        (b"\0\0\0\0\0\0\0\x40{123", "no PROXY protocol header"),
        (b"PROXY TCP4 10.1.2.3\r\n", "a line that is none|that is none"),
        (b"PROXY TCP4 10.1.2.3 10.0.0.1 5555 50052 7\r\n", "that is none"),
        (b"PROXY TCP6 10.1.2.3 10.0.0.1 5555 50052\r\n", "that is none"),
        (b"PROXY TCP9 10.1.2.3 10.0.0.1 5555 50052\r\n", "that is none"),
        (b"PROXY TCP4 10.1.2.999 10.0.0.1 5555 50052\r\n", "that is none"),
        (b"PROXY TCP4 10.1.2.3 10.0.0.1 70000 50052\r\n", "that is none"),
        (b"PROXY TCP6 fe80::1%\x1b[31m\x00 ::1 80 443\r\n", "that is none"),
        (b"PROXY TCP4 10.1.2.3 10.0.0.1 -1 50052\r\n", "that is none"),
        (b"PROXY TCP4 10.1.2.3 10.0.0.1 \xff 50052\r\n", "that is none"),
        (b"PROXY " + b"x" * 200, "without an end"),
        (v2(version=3), "not understood"),
        (v2(command=7), "not understood"),
        (v2(addresses=V4[:10]), "shorter than its addresses"),
        (v2(family=0x21, addresses=V4), "shorter than its addresses"),
        (v2(more=bytes(V2_LONGEST + 1)), "not understood"),
    ],
)
def test_what_is_no_header_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FrameRefused, match=reason):
        read(data)


@given(st.sampled_from([b"", b"PROXY ", V2_SIGNATURE]), st.binary(min_size=12, max_size=300))
def test_whatever_comes_is_a_header_or_refused(start: bytes, rest: bytes) -> None:
    header, data = ProxyHeader(), start + rest + bytes(V2_LONGEST)
    reason, before = "", len(data)
    try:
        while (wanted := header.wants) > 0:
            assert wanted <= V2_LONGEST
            piece, data = data[:wanted], data[wanted:]
            header.feed(piece)
    except FrameRefused as error:
        reason = str(error)
    assert len(reason) < 4 * V1_LONGEST + 100
    assert before - len(data) <= V2_LONGEST + 16


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("", ""),
        ("somewhere", "somewhere"),
    ],
)
def test_an_address_has_one_form(host: str, plain: str) -> None:
    assert plain_host(host) == plain
