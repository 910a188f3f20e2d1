"""What comes before the first frame: the PROXY protocol's header from a forwarder, then the TLS handshake.

Both tell who the peer is. What is wrong with them is refused here, with a reason; nothing is waited for longer than a
first message is.
"""

import dataclasses
import ipaddress
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from flserver.clock import Deadline
from flserver.errors import ConnectionLost, HandshakeRefused, UsageError
from flserver.identity.peer import Peer
from flserver.network.channel import Channel
from flserver.network.tls import Tls, certificate_of, refusal
from flserver.network.transport import translated
from flserver.wire.proxy_header import ProxyHeader

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

IPV4_AS_IPV6 = ipaddress.IPv6Network("::ffff:0:0/96")
TLS_FIRST_BYTE = 0x16  # a handshake record
PROTOCOL_VERSION_ALERT = b"\x15\x03\x01\x00\x02\x02\x46"


def networks(text: str) -> tuple[Network, ...]:
    """The networks of ``--trusted-proxy``: CIDRs or addresses with commas between. Raises UsageError."""
    try:
        found = [ipaddress.ip_network(part.strip()) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--trusted-proxy {text}: {error}") from error
    for network in found:
        if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(IPV4_AS_IPV6):
            raise UsageError(f"--trusted-proxy {text}: write {network} as IPv4, as addresses are compared")
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Preamble:
    """How connections begin on this port. ``seconds`` is for each of the two steps."""

    tls: Tls | None
    proxies: Sequence[Network]
    seconds: float

    def trusts(self, host: str) -> bool:
        """Whether an address is a forwarder's, which speaks for others."""
        if not self.proxies:
            return False
        address = ipaddress.ip_address(host)
        return any(address in network for network in self.proxies)

    def read_proxy_header(self, channel: Channel, peer: Peer, count: Callable[[int], None]) -> Peer:
        """The peer that a forwarder speaks for. ``count`` is told how many bytes the header took.

        Raises FrameRefused where there is no header, and ConnectionLost.
        """
        header, deadline = ProxyHeader(), Deadline.after(self.seconds)
        where = "before the PROXY protocol header was whole"
        while header.wants:
            got = bytearray()
            while len(got) < header.wants:
                space = bytearray(header.wants - len(got))
                with translated(where):
                    came = channel.receive_into(memoryview(space), deadline.remaining())
                if came == 0:
                    raise ConnectionLost(f"end of file {where}", "closed")
                if came is None:
                    raise ConnectionLost(f"timed out {where}", "timeout")
                count(came)
                got += space[:came]
            header.feed(bytes(got))
        if header.source is None:
            return peer
        host, port = header.source
        return dataclasses.replace(peer, host=host, port=port, proxy_host=peer.host)

    def shake_hands(self, channel: Channel, peer: Peer) -> Peer:
        """The peer under TLS, with its certificate where one was asked for.

        Raises HandshakeRefused, and ConnectionLost where it went away or said nothing.
        """
        assert self.tls is not None
        deadline, where = Deadline.after(self.seconds), "before the TLS handshake"
        with translated(where):
            first = channel.peek(8, deadline.remaining())
        if first is None:
            raise ConnectionLost(f"timed out {where}", "timeout")
        if not first:
            raise ConnectionLost(f"end of file {where}", "closed")
        if first[0] != TLS_FIRST_BYTE:
            with suppress(OSError):  # from which the other end can tell what is spoken here
                channel.send([PROTOCOL_VERSION_ALERT], 1.0)
            raise HandshakeRefused(f"plain text on a port that speaks TLS (the bytes are {first!r})")
        where = "in the middle of the TLS handshake"
        with translated(where):
            try:
                sock = channel.start_tls(self.tls.context, deadline.remaining())
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
                raise ConnectionLost(f"end of file {where}", "closed") from error
            except ssl.SSLError as error:
                raise refusal(error) from error
        return dataclasses.replace(peer, transport="tls", certificate=certificate_of(sock))
