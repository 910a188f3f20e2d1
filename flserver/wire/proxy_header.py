"""The PROXY protocol's header, versions 1 and 2: what a forwarder says of the connection that it forwards.

Sans-IO: ``wants`` says how many bytes are needed next, ``feed`` takes exactly those. Not a byte of what follows the
header is asked for. (The protocol is HAProxy's, ``proxy-protocol.txt``.)
"""

import ipaddress
from functools import lru_cache

from flserver.errors import FrameRefused

V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V2_FIXED = len(V2_SIGNATURE) + 4  # bytes: version and command, family, and in two the length of the rest
V1_LONGEST = 107  # bytes, the line's end included
V2_LONGEST = 4096  # bytes of addresses and extensions: the protocol allows more, forwarders send a few hundred
V2_COMMANDS = {0: "LOCAL", 1: "PROXY"}
V2_FAMILIES = {0x11: 4, 0x21: 16}  # TCP over IPv4 and over IPv6: bytes of an address

Address = tuple[str, int]


class ProxyHeader:
    """Reads one header. When ``wants`` is 0 it is whole, and ``source`` is the connection's real address and port.

    ``source`` is None where the forwarder speaks for itself (version 1 UNKNOWN, version 2 LOCAL: a health check).
    """

    def __init__(self) -> None:
        self._got = b""
        self._length: int | None = None  # of a header of version 2, when it is known
        self.wants = len(V2_SIGNATURE)
        self.source: Address | None = None

    def feed(self, data: bytes) -> None:
        """Take the next ``wants`` bytes. Raises FrameRefused where this is no header."""
        assert len(data) == self.wants
        self._got += data
        if self._got.startswith(V2_SIGNATURE):
            self._feed_v2()
        elif self._got.startswith(b"PROXY "):
            self._feed_v1()
        else:
            raise FrameRefused(f"no PROXY protocol header, from a --trusted-proxy (the bytes are {self._got!r})")

    def _feed_v1(self) -> None:
        if not self._got.endswith(b"\r\n"):
            if len(self._got) >= V1_LONGEST:
                raise FrameRefused("a PROXY protocol line without an end")
            # The shortest line is longer than the signature; from there on byte by byte, so as not to take too much.
            self.wants = 1
            return
        self.wants = 0
        words = self._got[:-2].split(b" ")
        if words[1] == b"UNKNOWN":
            return
        try:
            _, family, source, _, source_port, _ = (word.decode("ascii") for word in words)
            address = ipaddress.ip_address(source)
            if "%" in source:  # an IPv6 zone, which may hold anything
                raise ValueError
            if {"TCP4": 4, "TCP6": 6}[family] != address.version or not source_port.isdigit():
                raise ValueError
            self.source = _address(address, int(source_port))
        except (ValueError, KeyError) as error:
            raise FrameRefused(f"a PROXY protocol line that is none: {self._got!r}") from error

    def _feed_v2(self) -> None:
        if len(self._got) < V2_FIXED:
            self.wants = V2_FIXED - len(self._got)
            return
        kind, family = self._got[12], self._got[13]
        if self._length is None:
            self._length = int.from_bytes(self._got[14:16], "big")
            if kind >> 4 != 2 or kind & 15 not in V2_COMMANDS or self._length > V2_LONGEST:
                raise FrameRefused(f"a PROXY protocol header that is not understood: {self._got[12:16].hex(' ')}")
            self.wants = self._length
            if self.wants:
                return
        self.wants = 0
        size = V2_FAMILIES.get(family)
        if V2_COMMANDS[kind & 15] == "LOCAL" or size is None:
            return
        if self._length < 2 * size + 4:
            raise FrameRefused("a PROXY protocol header that is shorter than its addresses")
        start = V2_FIXED + 2 * size
        port = int.from_bytes(self._got[start : start + 2], "big")
        self.source = _address(ipaddress.ip_address(self._got[V2_FIXED : V2_FIXED + size]), port)


def _address(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> Address:
    if not 0 <= port < 65536:
        raise ValueError
    return plain_host(str(address)), port


@lru_cache(4096)
def plain_host(host: str) -> str:
    """An address in the one form that it is compared and recorded in: IPv4 as such, also where it came as IPv6.

    What is no address stays as it is.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
