"""The run, its processes and who operates them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flserver.events.event import Event


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


@dataclass(frozen=True, kw_only=True)
class StateChanged(Event):
    """The run entered a state (joining, running, waiting, completed, interrupted, failed)."""

    state: str
    detail: str | None = None
