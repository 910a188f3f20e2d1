"""Connections, messages and registrations."""

from collections.abc import Mapping
from typing import Any

from flserver.events.event import Event
from flserver.events.words import Encoding, IdentityKind, LeftReason, Outcome, Purpose, StrangerReason, Transport
from flserver.frozen import frozen


@frozen(kw_only=True)
class ConnectionOpened(Event):
    """A peer connected, to the ingest ``node`` of that name where there are some. One that is ``inherited_from`` a
    connection of the server before stays connected: the run's next server goes on with it."""

    connection_id: int
    peer_host: str
    peer_port: int
    transport: Transport
    node: str | None = None
    inherited_from: int | None = None


@frozen(kw_only=True)
class PeerIdentified(Event):
    """A forwarder, or the TLS handshake, told who a connection's peer is. ``proxy_host`` is the forwarder's address,
    ``peer_host`` then the peer's own; the certificate is the peer's, verified."""

    connection_id: int
    peer_host: str
    peer_port: int
    proxy_host: str | None
    transport: Transport
    certificate_subject: str | None
    certificate_fingerprint: str | None


@frozen(kw_only=True)
class ConnectionClosed(Event):
    """A connection ended. ``reason`` says why, as text for people."""

    connection_id: int
    purpose: Purpose
    client_id: str | None
    reason: str
    bytes_in: int
    bytes_out: int


@frozen(kw_only=True)
class StrangersSummed(Event):
    """Connections that became neither a registration nor an update and have no rows of their own, of one kind: how many
    a network made in a minute, the messages in and the answers out on them, and bytes: of the messages that came in,
    and of all that went each way. Where a minute has several events of one kind, they add up. ``node`` is the ingest
    node that counted them, where there are some."""

    minute: str
    prefix: str
    reason: StrangerReason
    purpose: Purpose
    header: str
    outcome: Outcome | None
    connections: int
    messages: int
    message_bytes: int
    answers: int
    failed_answers: int
    bytes_in: int
    bytes_out: int
    node: str | None = None


@frozen(kw_only=True)
class MessageReceived(Event):
    """A message came in, whole or not. ``at`` is the time of its last byte."""

    message_id: int
    connection_id: int
    client_id: str | None
    round: int | None
    header: str | None
    encoding: Encoding
    bytes: int
    digest: str | None
    seconds: float
    outcome: Outcome
    reason: str | None


@frozen(kw_only=True)
class MessageSent(Event):
    """A message went out, whole or not. ``attempt`` and ``sent_at`` are set for a ``<MODEL>``: ``sent_at`` is the
    moment before its last bytes were handed to the kernel."""

    message_id: int
    connection_id: int
    client_id: str | None
    round: int | None
    attempt: int | None = None
    header: str
    encoding: Encoding
    bytes: int
    digest: str | None
    seconds: float
    sent_at: str | None = None
    outcome: Outcome
    reason: str | None


@frozen(kw_only=True)
class ClientRegistered(Event):
    """A client takes part; ``registration`` counts its registrations in this run from 1. ``identity`` says whether a
    certificate showed who it is; ``label`` is the roster's; ``metadata`` are the fields of its ``<METADATA>`` as they
    were sent, but for header and info."""

    client_id: str
    registration: int
    connection_id: int
    identity: IdentityKind
    data_size: int
    info: Mapping[str, Any]
    rejoined: bool
    label: str | None = None
    metadata: Mapping[str, Any] | None = None


@frozen(kw_only=True)
class ClientLeft(Event):
    """A registration ended."""

    client_id: str
    registration: int
    connection_id: int
    reason: LeftReason
