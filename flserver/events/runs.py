"""The run, its processes and who operates them."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from flserver.events.event import Event
from flserver.events.words import Awaited, LeftReason, OperatorAct, RunState, RunStatus
from flserver.frozen import frozen


@frozen(kw_only=True)
class ServerStarted(Event):
    """A server process began to work on a run.

    ``code`` are digests of sources, by the setting that names them, and of this package's as ``flserver``;
    ``libraries`` are versions by name. None, as ``cpu``: the event is older than that.
    """

    process_id: int
    host: str
    user: str
    pid: int
    server_version: str
    python_version: str
    torch_version: str
    overrides: Mapping[str, Any]
    resumed_from_round: int | None
    code: Mapping[str, str] | None = None
    libraries: Mapping[str, str] | None = None
    cpu: str | None = None


@frozen(kw_only=True)
class ServerStopped(Event):
    """The server process came to its orderly end."""

    process_id: int
    exit_code: int


@frozen(kw_only=True)
class NodeStarted(Event):
    """An ingest node was begun, in the ``slot`` of that number from 1 on, where one comes after another: a process on
    the machine ``host``, which listens for trainers there. No two nodes of a run have the same name. ``code``,
    ``libraries`` and ``cpu`` are as in ServerStarted, of that process."""

    node: str
    slot: int
    host: str
    pid: int
    listen_host: str
    listen_port: int
    code: Mapping[str, str]
    libraries: Mapping[str, str]
    cpu: str


@frozen(kw_only=True)
class NodeEnded(Event):
    """An ingest node came to its orderly end. One that did not is ``NodeLost``."""

    node: str
    slot: int


@frozen(kw_only=True)
class RunStarted(Event):
    """A new run was made; ``code`` are the digests of the operator's own files, by the setting that names them."""

    run_id: str
    name: str
    num_rounds: int
    model: str
    strategy: str
    seed: int
    config: Mapping[str, Any]
    parent_run_id: str | None
    parent_round: int | None
    code: Mapping[str, str] = field(default_factory=dict)


@frozen(kw_only=True)
class RunResumed(Event):
    """A run went on in a new process; ``config`` holds the settings now in force, ``code`` is as in RunStarted."""

    run_id: str
    from_round: int | None
    num_rounds: int
    config: Mapping[str, Any]
    code: Mapping[str, str] = field(default_factory=dict)


@frozen(kw_only=True)
class RunLeftOver(Event):
    """A run was found ``running`` although its process is gone: it, its open attempt, updates, connections and
    registrations were closed, all with this ``reason``."""

    run_id: str
    reason: LeftReason


@frozen(kw_only=True)
class RunEnded(Event):
    """The run reached a state in which no process works on it: ``status`` is any but ``running``."""

    run_id: str
    status: RunStatus
    final_digest: str | None


@frozen(kw_only=True)
class QuorumSettled(Event):
    """A join window closed, and the least number of updates that commits a round is settled. ``absent`` are the clients
    on the roster that are not there, as text for people."""

    min_updates: int
    absent: tuple[str, ...] = ()


@frozen(kw_only=True)
class OperatorActed(Event):
    """Somebody, or a signal, told the server something. ``detail`` says what, by the kind; ``actor`` who they say they
    are, or the user who sent the signal, None where that is unknown; ``reason`` why, as they say."""

    kind: OperatorAct
    detail: Mapping[str, Any]
    actor: str | None = None
    reason: str | None = None


@frozen(kw_only=True)
class HeadSigned(Event):
    """The record's head was signed: of the first ``size`` events, all before this one, whose tree has this ``root``.
    ``note`` is a signed note (C2SP's tlog-checkpoint), and ``key`` the public key for it."""

    size: int
    root: str
    key: str
    note: str


@frozen(kw_only=True)
class RestingRow:
    """A row of a table that rested on purged payloads, as it was left: its key's values in their order, and its digest
    (``store.purge.row_digest``)."""

    table: str
    key: tuple[Any, ...]
    digest: str


@frozen(kw_only=True)
class PayloadsPurged(Event):
    """The payloads and salts of some events of a run were removed, and the text from outside in the ``rows`` that
    rested on them. ``sequences`` are those events' numbers, as first and last of ranges."""

    run_id: str
    sequences: tuple[tuple[int, int], ...]
    rows: tuple[RestingRow, ...]


@frozen(kw_only=True)
class StateChanged(Event):
    """The run entered a state. ``detail`` says why, as text for people."""

    state: RunState
    detail: str | None = None


@frozen(kw_only=True)
class Waited(Event):
    """The run has waited for clients for ``seconds`` and goes on waiting, for ``seconds_left`` at most; None: for ever.

    ``answered`` clients have done what is ``awaited`` of them, and as many more as ``missing`` are needed; ``clients``
    are those that have not, as text for people, where that is known. ``round`` is set where updates are awaited.
    """

    awaited: Awaited
    round: int | None = None
    seconds: float
    seconds_left: float | None
    answered: int
    missing: int
    clients: tuple[str, ...]
