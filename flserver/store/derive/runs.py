"""The rows that follow from what happens to runs and processes."""

from sqlalchemy import Connection, Table, null, update

from flserver import events as e
from flserver.store import tables as t
from flserver.store.derive.rounds import end_left_over
from flserver.store.derive.statements import Derivations, Origin, change, insert_row


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
    end_left_over(connection, origin, event)
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


DERIVATIONS: Derivations = {
    e.RunStarted: _run_started,
    e.RunResumed: _run_resumed,
    e.RunEnded: _run_ended,
    e.RunLeftOver: _run_left_over,
    e.QuorumSettled: _quorum_settled,
    e.ServerStarted: _server_started,
    e.ServerStopped: _server_stopped,
    e.OperatorActed: _operator_acted,
    e.StateChanged: lambda connection, origin, event: None,  # these stand in the record only
    e.Waited: lambda connection, origin, event: None,
}
