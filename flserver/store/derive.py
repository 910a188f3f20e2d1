"""The rows that follow from an event: a pure function of the events before it and of itself.

``derive`` is called in the transaction that writes the event; ``rederive`` makes all tables anew from the record.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping, Table, bindparam, delete, null, select, update

from flserver import events as e
from flserver.errors import StoreError
from flserver.store import derive_rounds
from flserver.store import tables as t
from flserver.store.payloads import from_payload
from flserver.store.rows import Origin, change, insert_row

REPLAY_PAGE = 1000


def run_of(event: e.Event, run_id: str) -> str:
    """The run that an event is about: the one it names, else the one its process works on."""
    return getattr(event, "run_id", run_id)


def derive(connection: Connection, origin: Origin, event: e.Event) -> None:
    """Write the rows that follow from ``event``. Raises StoreError where it contradicts the rows before it."""
    DERIVATIONS[type(event)](connection, origin, event)


def rederive(connection: Connection) -> None:
    """Make every derived table anew from the record, in the caller's transaction.

    Raises StoreError where a payload was purged: what it held is gone, the tables would lose it too.
    """
    for table in reversed(t.DERIVED):
        connection.execute(delete(table))
    for row in _recorded(connection):
        if row["payload"] is None:
            raise StoreError(f"event {row['seq']} was purged: the tables cannot be made anew from the record")
        origin = Origin(row["seq"], row["run_id"], row["process_id"])
        derive(connection, origin, from_payload(row["type"], row["payload"]))


def _recorded(connection: Connection) -> Iterator[RowMapping]:
    last = 0
    page = select(t.events).where(t.events.c.seq > bindparam("last")).order_by(t.events.c.seq).limit(REPLAY_PAGE)
    while rows := connection.execute(page, {"last": last}).mappings().all():
        yield from rows
        last = rows[-1]["seq"]


# --- the run and its processes ---------------------------------------------------------------------------------------


def _run_started(connection: Connection, origin: Origin, event: e.RunStarted) -> None:
    insert_row(connection, t.runs, origin, event, status="running", started_at=event.at, event_seq=origin.seq)


def _run_resumed(connection: Connection, origin: Origin, event: e.RunResumed) -> None:
    values = {"status": "running", "num_rounds": event.num_rounds, "config": event.config}
    change(connection, t.runs, {"run_id": origin.run_id}, values | {"ended_at": None, "final_digest": None})


def _run_ended(connection: Connection, origin: Origin, event: e.RunEnded) -> None:
    values = {"status": event.status, "ended_at": event.at, "final_digest": event.final_digest}
    change(connection, t.runs, {"run_id": origin.run_id}, values)


def _run_left_over(connection: Connection, origin: Origin, event: e.RunLeftOver) -> None:
    # Nobody saw the run and its process end: they get no time and no exit code.
    change(connection, t.runs, {"run_id": origin.run_id}, {"status": "interrupted"})
    derive_rounds.left_over(connection, origin, event)
    _end_open(connection, t.connections, origin, closed_at=event.at, close_reason=event.reason)
    _end_open(connection, t.clients, origin, left_at=event.at, left_reason=event.reason)


def _end_open(connection: Connection, table: Table, origin: Origin, **ends: str) -> None:
    open_ones = (table.c.run_id == origin.run_id, table.c[next(iter(ends))] == null())
    connection.execute(update(table).where(*open_ones).values(ends))


def _quorum_settled(connection: Connection, origin: Origin, event: e.QuorumSettled) -> None:
    change(connection, t.runs, {"run_id": origin.run_id}, {"min_updates": event.min_updates})


def _server_started(connection: Connection, origin: Origin, event: e.ServerStarted) -> None:
    insert_row(connection, t.processes, origin, event, started_at=event.at)


def _server_stopped(connection: Connection, origin: Origin, event: e.ServerStopped) -> None:
    values = {"ended_at": event.at, "exit_code": event.exit_code}
    change(connection, t.processes, {"process_id": event.process_id}, values)


def _operator_acted(connection: Connection, origin: Origin, event: e.OperatorActed) -> None:
    insert_row(connection, t.operator_events, origin, event, event_seq=origin.seq, process_id=origin.process_id)


# --- connections, messages, clients ----------------------------------------------------------------------------------


def _connection_opened(connection: Connection, origin: Origin, event: e.ConnectionOpened) -> None:
    insert_row(connection, t.connections, origin, event, purpose="unknown", opened_at=event.at)


def _peer_identified(connection: Connection, origin: Origin, event: e.PeerIdentified) -> None:
    told = {name: value for name, value in vars(event).items() if name not in ("at", "connection_id")}
    change(connection, t.connections, {"connection_id": event.connection_id}, told)


def _connection_closed(connection: Connection, origin: Origin, event: e.ConnectionClosed) -> None:
    change(
        connection,
        t.connections,
        {"connection_id": event.connection_id},
        {"client_id": event.client_id, "purpose": event.purpose, "closed_at": event.at}
        | {"close_reason": event.reason, "bytes_in": event.bytes_in, "bytes_out": event.bytes_out},
    )


def _message_received(connection: Connection, origin: Origin, event: e.MessageReceived) -> None:
    insert_row(connection, t.messages, origin, event, direction="in")


def _message_sent(connection: Connection, origin: Origin, event: e.MessageSent) -> None:
    insert_row(connection, t.messages, origin, event, direction="out")
    if event.attempt is not None and event.outcome == "ok":
        keys = {"run_id": origin.run_id, "round": event.round, "attempt": event.attempt, "client_id": event.client_id}
        change(connection, t.client_rounds, keys, {"sent_at": event.sent_at, "bytes_out": event.bytes})


def _client_registered(connection: Connection, origin: Origin, event: e.ClientRegistered) -> None:
    insert_row(connection, t.clients, origin, event, registered_at=event.at, rejoined=int(event.rejoined))
    values = {"client_id": event.client_id, "purpose": "register"}
    change(connection, t.connections, {"connection_id": event.connection_id}, values)


def _client_left(connection: Connection, origin: Origin, event: e.ClientLeft) -> None:
    keys = {"run_id": origin.run_id, "client_id": event.client_id, "registration": event.registration}
    change(connection, t.clients, keys, {"left_at": event.at, "left_reason": event.reason})


def _nothing(connection: Connection, origin: Origin, event: e.Event) -> None:
    """The event stands in the record only."""


DERIVATIONS: Mapping[type[e.Event], Callable[[Connection, Origin, Any], None]] = {
    e.RunStarted: _run_started,
    e.RunResumed: _run_resumed,
    e.RunEnded: _run_ended,
    e.RunLeftOver: _run_left_over,
    e.QuorumSettled: _quorum_settled,
    e.ServerStarted: _server_started,
    e.ServerStopped: _server_stopped,
    e.OperatorActed: _operator_acted,
    e.ConnectionOpened: _connection_opened,
    e.PeerIdentified: _peer_identified,
    e.ConnectionClosed: _connection_closed,
    e.MessageReceived: _message_received,
    e.MessageSent: _message_sent,
    e.ClientRegistered: _client_registered,
    e.ClientLeft: _client_left,
    e.AttemptStarted: derive_rounds.attempt_started,
    e.UpdateReceived: derive_rounds.update_received,
    e.RoundCommitted: derive_rounds.round_committed,
    e.AttemptAborted: derive_rounds.attempt_aborted,
    e.CheckpointDeleted: derive_rounds.checkpoint_deleted,
    e.StateChanged: _nothing,
}
