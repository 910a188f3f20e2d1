"""What a connection itself tells of its peer."""

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address, ip_network

from flserver.events.words import Transport
from flserver.frozen import frozen

MOST_ADDRESSES = 4096  # of which what follows from them is kept: to read an address costs as much as to read a message
SITE_BITS = 64  # of an IPv6 address are one site's: whoever has it has all addresses in it


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A certificate that the TLS handshake verified. ``fingerprint`` is ``sha256:hex`` of its DER form.

    ``common_name`` is None where the subject has none, or several.
    """

    subject: str
    common_name: str | None
    fingerprint: str


@frozen(kw_only=True)
class Peer:
    """The other end of a connection: its own address, the forwarder's (``proxy_host``) where one spoke for it, how it
    speaks, and the certificate that it showed."""

    host: str
    port: int
    proxy_host: str | None = None
    transport: Transport = "tcp"
    certificate: Certificate | None = None

    @property
    def owner(self) -> str | None:
        """Whose it is, as text for people: its certificate's, else its address's. None on this machine."""
        if self.certificate is not None:
            return f"certificate {self.certificate.fingerprint}"
        return None if self.local else self.host

    @property
    def origin(self) -> str:
        """Where it comes from, as text: a certificate, or an address, which stands for all of its network in IPv6."""
        if self.certificate is not None:
            return f"certificate {self.certificate.fingerprint}"
        return _site(self.host)

    @property
    def local(self) -> bool:
        """Whether it is on this machine: there, an address tells nothing of who it is."""
        return _is_local(self.host)


@lru_cache(MOST_ADDRESSES)
def _site(host: str) -> str:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return host if address.version == 4 else str(ip_network((address, SITE_BITS), strict=False))


@lru_cache(MOST_ADDRESSES)
def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:  # no IP address: a socket pair's
        return True
