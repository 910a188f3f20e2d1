"""What happened, as typed facts in the past tense.

Every fact is emitted once, through ``bus.Bus.emit``. The recorder writes it into the ``events`` table and derives the
rows of the other tables from it in the same transaction; metrics and console see it after that transaction committed.

Units: durations in seconds, sizes in bytes on the wire with the 8 of the length, accuracies and weights 0 to 1, times
as ``clock.utc_now`` writes them, digests as ``algorithm:hex``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flserver.clock import utc_now


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something happened at a time."""

    at: str = field(default_factory=utc_now)


# --- the run and its processes ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ServerStarted(Event):
    """A server process began to work on a run."""

    process_id: int
    host: str
    user: str
    pid: int
    server_version: str
    python_version: str
    torch_version: str
    overrides: Mapping[str, Any]
    resumed_from_round: int | None


@dataclass(frozen=True, kw_only=True)
class ServerStopped(Event):
    """The server process came to its orderly end."""

    process_id: int
    exit_code: int


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """A new run was made."""

    run_id: str
    name: str
    num_rounds: int
    model: str
    strategy: str
    seed: int
    config: Mapping[str, Any]
    parent_run_id: str | None
    parent_round: int | None


@dataclass(frozen=True, kw_only=True)
class RunResumed(Event):
    """A run went on in a new process; ``config`` holds the settings now in force."""

    run_id: str
    from_round: int | None
    num_rounds: int
    config: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunLeftOver(Event):
    """A run was found ``running`` although its process is gone: it, its open attempt and updates were closed."""

    run_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class RunEnded(Event):
    """The run reached a state in which no process works on it (``status``: completed, interrupted, failed)."""

    run_id: str
    status: str
    final_digest: str | None


@dataclass(frozen=True, kw_only=True)
class QuorumSettled(Event):
    """A join window closed, and the least number of updates that commits a round is settled. ``absent`` are the clients
    on the roster that are not there, as text for people."""

    min_updates: int
    absent: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OperatorActed(Event):
    """Somebody, or a signal, told the server something (``kind``: start, resume, override, stop, upgrade)."""

    kind: str
    detail: Mapping[str, Any]


# --- connections and messages ----------------------------------------------------------------------------------------


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


# --- clients ---------------------------------------------------------------------------------------------------------


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


# --- rounds and updates ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AttemptStarted(Event):
    """An attempt at a round began. ``clients`` are invited: sent the model; ``not_sent`` are participants that owe an
    older answer and are not."""

    round: int
    attempt: int
    process_id: int
    clients: tuple[str, ...]
    not_sent: tuple[str, ...]
    deadline_at: str | None
    base_digest: str | None


@dataclass(frozen=True, kw_only=True)
class ClientMetric:
    """A number that a client reported with its update, ``measured_on`` the received or the trained model."""

    name: str
    measured_on: str
    value: float


@dataclass(frozen=True, kw_only=True)
class UpdateReceived(Event):
    """A complete upload that decodes and passes the identity rules. ``decision`` is None while it counts and its
    attempt runs; ``answers_round`` and ``answers_attempt`` are None where it answers nothing. ``identity`` as in
    :class:`ClientRegistered`, of the connection that it came on."""

    update_id: int
    message_id: int
    connection_id: int
    client_id: str
    answers_round: int | None
    answers_attempt: int | None
    arrived_round: int | None
    decision: str | None
    reason: str | None
    update_digest: str
    data_size: int
    bytes: int
    wait_seconds: float | None
    upload_seconds: float
    update_norm: float | None
    identity: str = "claimed"
    metrics: tuple[ClientMetric, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ClientOutcome:
    """What became of one invited client in one attempt (``participation``: answered, dropped, timed_out, not_sent,
    cut_short). ``update_id`` is set where its update counted, ``weight`` where it was accepted; ``seconds`` is sent to
    received."""

    client_id: str
    participation: str
    update_id: int | None = None
    weight: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class RoundMetric:
    """A number about the global model of ``round`` (``source``: server, evaluate, clients)."""

    round: int
    name: str
    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class RoundCommitted(Event):
    """A round exists: its checkpoint is durable, and this event's transaction decides its updates ``accepted``.

    Every update of the attempt whose decision is still NULL is named in ``outcomes``. ``clients`` is how many were sent
    the model; None leaves the number that were invited.
    """

    round: int
    attempt: int
    clients: int | None = None
    seconds: float
    broadcast_seconds: float | None
    wait_seconds: float | None
    aggregate_seconds: float | None
    evaluate_seconds: float | None
    checkpoint_seconds: float
    data_size: int
    model_digest: str
    checkpoint: str
    checkpoint_bytes: int
    loss: float | None
    accuracy: float | None
    metrics: tuple[RoundMetric, ...]
    outcomes: tuple[ClientOutcome, ...]


@dataclass(frozen=True, kw_only=True)
class AttemptAborted(Event):
    """An attempt ended without a round (``reason``: quorum, server stopped). Its updates whose decision was still
    NULL are ``aborted``. ``clients`` as in :class:`RoundCommitted`."""

    round: int
    attempt: int
    clients: int | None = None
    reason: str
    seconds: float
    broadcast_seconds: float | None
    wait_seconds: float | None
    outcomes: tuple[ClientOutcome, ...]


@dataclass(frozen=True, kw_only=True)
class CheckpointDeleted(Event):
    """A committed round's file was pruned; its row and digest stay."""

    round: int
    attempt: int
    checkpoint: str


# --- the state that only /metrics and the console show ---------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StateChanged(Event):
    """The run entered a state (joining, running, waiting, completed, interrupted, failed)."""

    state: str
    detail: str | None = None
