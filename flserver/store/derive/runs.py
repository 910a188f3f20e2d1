"""The rows that follow from what happens to runs and processes."""

from sqlalchemy import Table, null, update

from flserver import events as e
from flserver.store import tables as t
from flserver.store.derive.rounds import end_left_over
from flserver.store.derive.statements import Derivations, Origin, Rows


def _run_started(rows: Rows, origin: Origin, event: e.RunStarted) -> None:
    rows.insert_from(event, t.runs, origin, status="running", started_at=event.at, event_seq=origin.seq)


def _run_resumed(rows: Rows, origin: Origin, event: e.RunResumed) -> None:
    values = {"status": "running", "num_rounds": event.num_rounds, "config": event.config}
    rows.change(t.runs, origin.run_id, values | {"ended_at": None, "final_digest": None})


def _run_ended(rows: Rows, origin: Origin, event: e.RunEnded) -> None:
    values = {"status": event.status, "ended_at": event.at, "final_digest": event.final_digest}
    rows.change(t.runs, origin.run_id, values)


def _run_left_over(rows: Rows, origin: Origin, event: e.RunLeftOver) -> None:
    # Nobody saw the run and its process end: they get no time and no exit code.
    rows.change(t.runs, origin.run_id, {"status": "interrupted"})
    end_left_over(rows, origin, event)
    _end_open(rows, t.nodes, origin, ended_at=event.at, end_reason=event.reason)
    _end_open(rows, t.connections, origin, closed_at=event.at, close_reason=event.reason)
    _end_open(rows, t.clients, origin, left_at=event.at, left_reason=event.reason)


def _end_open(rows: Rows, table: Table, origin: Origin, **ends: str) -> None:
    rows.write()  # so that all that are open are in the table
    open_ones = (table.c.run_id == origin.run_id, table.c[next(iter(ends))] == null())
    rows.connection.execute(update(table).where(*open_ones).values(ends))


def _quorum_settled(rows: Rows, origin: Origin, event: e.QuorumSettled) -> None:
    rows.change(t.runs, origin.run_id, {"min_updates": event.min_updates})


def _server_started(rows: Rows, origin: Origin, event: e.ServerStarted) -> None:
    rows.insert_from(event, t.processes, origin, started_at=event.at)


def _server_stopped(rows: Rows, origin: Origin, event: e.ServerStopped) -> None:
    rows.change(t.processes, event.process_id, {"ended_at": event.at, "exit_code": event.exit_code})


def _node_started(rows: Rows, origin: Origin, event: e.NodeStarted) -> None:
    rows.insert_from(event, t.nodes, origin, process_id=origin.process_id, started_at=event.at)


def _node_ended(rows: Rows, origin: Origin, event: e.NodeEnded) -> None:
    rows.change(t.nodes, (origin.run_id, event.node), {"ended_at": event.at, "lost": 0, "end_reason": "finished"})


def _operator_acted(rows: Rows, origin: Origin, event: e.OperatorActed) -> None:
    rows.insert_from(event, t.operator_events, origin, event_seq=origin.seq, process_id=origin.process_id)


def _head_signed(rows: Rows, origin: Origin, event: e.HeadSigned) -> None:
    rows.insert_from(event, t.heads, origin, event_seq=origin.seq, process_id=origin.process_id)


DERIVATIONS: Derivations = {
    e.RunStarted: _run_started,
    e.RunResumed: _run_resumed,
    e.RunEnded: _run_ended,
    e.RunLeftOver: _run_left_over,
    e.QuorumSettled: _quorum_settled,
    e.ServerStarted: _server_started,
    e.ServerStopped: _server_stopped,
    e.NodeStarted: _node_started,
    e.NodeEnded: _node_ended,
    e.OperatorActed: _operator_acted,
    e.HeadSigned: _head_signed,
    e.PayloadsPurged: lambda rows, origin, event: None,
    e.StateChanged: lambda rows, origin, event: None,  # these stand in the record only
    e.Waited: lambda rows, origin, event: None,
}
