"""Connections, messages and registrations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flserver.events.event import Event


@dataclass(frozen=True, kw_only=True)
class ConnectionOpened(Event):
    """A peer connected."""

    connection_id: int
    peer_host: str
    peer_port: int
    transport: str


@dataclass(frozen=True, kw_only=True)
class PeerIdentified(Event):
    """A forwarder, or the TLS handshake, told who a connection's peer is. ``proxy_host`` is the forwarder's address,
    ``peer_host`` then the peer's own; the certificate is the peer's, verified."""

    connection_id: int
    peer_host: str
    peer_port: int
    proxy_host: str | None
    transport: str
    certificate_subject: str | None
    certificate_fingerprint: str | None


@dataclass(frozen=True, kw_only=True)
class ConnectionClosed(Event):
    """A connection ended (``purpose``: register, upload, unknown)."""

    connection_id: int
    purpose: str
    client_id: str | None
    reason: str
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, kw_only=True)
class MessageReceived(Event):
    """A message came in, whole or not (``outcome``: ok, refused, failed). ``at`` is its last byte's time."""

    message_id: int
    connection_id: int
    client_id: str | None
    round: int | None
    header: str | None
    encoding: str
    bytes: int
    digest: str | None
    seconds: float
    outcome: str
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class MessageSent(Event):
    """A message went out, whole or not. ``attempt`` and ``sent_at`` are set for a ``<MODEL>``: ``sent_at`` is the
    moment before its last bytes were handed to the kernel."""

    message_id: int
    connection_id: int
    client_id: str | None
    round: int | None
    attempt: int | None = None
    header: str
    encoding: str
    bytes: int
    digest: str | None
    seconds: float
    sent_at: str | None = None
    outcome: str
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class ClientRegistered(Event):
    """A client was admitted; ``registration`` counts its registrations in this run from 1. ``identity`` is
    ``authenticated`` by a certificate or ``claimed``; ``label`` is the roster's."""

    client_id: str
    registration: int
    connection_id: int
    identity: str
    data_size: int
    info: Mapping[str, Any]
    rejoined: bool
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class ClientLeft(Event):
    """A registration ended (``reason``: finished, closed, reset, timeout, protocol, stopped, other)."""

    client_id: str
    registration: int
    connection_id: int
    reason: str
