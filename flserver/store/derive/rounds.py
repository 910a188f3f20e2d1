"""The rows that follow from rounds and updates.

Exactly one decision an update, and what was accepted is what was averaged: that promise is held here. An event that
contradicts it raises StoreError.
"""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, insert, null, select, update

from flserver import events as e
from flserver.errors import StoreError
from flserver.events.words import MeasuredOn, RoundStatus
from flserver.store import tables as t
from flserver.store.derive.statements import Derivations, Origin, change, change_all, insert_row, matches, put, shared
from flserver.text import json_number


def _attempt(origin: Origin, number: int | None, attempt: int | None) -> dict[str, Any]:
    return {"run_id": origin.run_id, "round": number, "attempt": attempt}


def _attempt_started(connection: Connection, origin: Origin, event: e.AttemptStarted) -> None:
    values = {"status": "running", "started_at": event.at, "clients": len(event.clients)}
    insert_row(connection, t.rounds, origin, event, **values)
    attempt = _attempt(origin, event.round, event.attempt)
    rows = [attempt | {"client_id": client, "participation": None, "reason": None} for client in event.clients]
    passed_over = zip_longest(event.not_sent, event.why_not_sent)
    rows += [attempt | {"client_id": client, "participation": "not_sent", "reason": why} for client, why in passed_over]
    if rows:
        connection.execute(insert(t.client_rounds), rows)


def _update_received(connection: Connection, origin: Origin, event: e.UpdateReceived) -> None:
    counted = event.data_size if event.counted_size is None else event.counted_size
    insert_row(connection, t.updates, origin, event, received_at=event.at, counted_size=counted)
    attempt = _attempt(origin, event.answers_round, event.answers_attempt)
    if event.decision is None and _status(connection, attempt) != "running":
        raise StoreError(f"update {event.update_id} has no decision, and no running attempt that would make one")
    if event.answers_round is None:
        return
    answer = {name: getattr(event, name) for name in ("decision", "reason", "data_size", "update_norm")}
    change(
        connection,
        t.client_rounds,
        attempt | {"client_id": event.client_id},
        answer | {"bytes_in": event.bytes, "counted_size": counted},
        unset="bytes_in",  # a model is answered once
    )
    measured: dict[MeasuredOn, int] = {"received": event.answers_round - 1, "trained": event.answers_round}
    row = {"run_id": origin.run_id, "client_id": event.client_id, "update_id": event.update_id, "source": "client"}
    metrics = [
        row | vars(metric) | {"round": measured[metric.measured_on], "note": _note(metric.value)}
        for metric in event.metrics
    ]
    put(connection, t.client_metrics, metrics)


def _suspect_rejected(connection: Connection, origin: Origin, event: e.SuspectRejected) -> None:
    decided = {"decision": "rejected", "reason": event.reason}
    change(connection, t.updates, {"update_id": event.update_id}, decided, unset="decision")
    seat = _attempt(origin, event.round, event.attempt) | {"client_id": event.client_id}
    change(connection, t.client_rounds, seat, decided, unset="decision")


def _round_committed(connection: Connection, origin: Origin, event: e.RoundCommitted) -> None:
    attempt = _attempt(origin, event.round, event.attempt)
    named = _named(connection, attempt, event.outcomes)
    accepted = [{"update_id": o.update_id, "decision": "accepted", "weight": o.weight} for o in named]
    change_all(connection, t.updates, {}, accepted, by="update_id")
    accepted = [{"client_id": o.client_id, "decision": "accepted", "weight": o.weight} for o in named]
    change_all(connection, t.client_rounds, attempt, accepted, by="client_id")
    _end_attempt(connection, origin, event, "committed", updates_accepted=len(named))
    metrics = [vars(metric) | {"run_id": origin.run_id, "note": _note(metric.value)} for metric in event.metrics]
    put(connection, t.round_metrics, metrics)


def _note(value: float) -> str | None:
    """What a number is that a REAL column cannot hold, and is NULL there: of a model that diverged, say."""
    written = json_number(value)
    return written if isinstance(written, str) else None


def _attempt_aborted(connection: Connection, origin: Origin, event: e.AttemptAborted) -> None:
    attempt = _attempt(origin, event.round, event.attempt)
    _named(connection, attempt, event.outcomes)
    _abort_updates(connection, attempt, event.reason)
    _end_attempt(connection, origin, event, "aborted", updates_accepted=0, data_size=0)


def end_left_over(connection: Connection, origin: Origin, event: e.RunLeftOver) -> None:
    """Close the attempts that the run's server left open when it was killed, and decide their updates ``aborted``."""
    c, invited = t.rounds.c, t.client_rounds.c
    running = select(c.round, c.attempt).where(c.run_id == origin.run_id, c.status == "running")
    for number, attempt_number in connection.execute(running).all():
        attempt = _attempt(origin, number, attempt_number)
        _abort_updates(connection, attempt, event.reason)
        participation = case((invited.bytes_in != null(), "answered"), else_="cut_short")
        open_rows = (*matches(t.client_rounds, attempt), invited.participation == null())
        connection.execute(update(t.client_rounds).where(*open_rows).values(participation=participation))
        ended = {"status": "aborted", "ended_at": event.at, "updates_accepted": 0, "data_size": 0}
        change(connection, t.rounds, attempt, ended | {"event_seq": origin.seq, "reason": event.reason})


def _end_attempt(
    connection: Connection,
    origin: Origin,
    event: e.RoundCommitted | e.AttemptAborted,
    status: RoundStatus,
    **values: Any,
) -> None:
    attempt = _attempt(origin, event.round, event.attempt)
    row = {name: value for name, value in shared(event, t.rounds).items() if name not in attempt}
    if event.clients is None:
        del row["clients"]
    ended = row | {"status": status, "ended_at": event.at, "event_seq": origin.seq} | values
    change(connection, t.rounds, attempt | {"status": "running"}, ended)
    outcomes = [{name: getattr(o, name) for name in ("client_id", "participation", "seconds")} for o in event.outcomes]
    change_all(connection, t.client_rounds, attempt, outcomes, by="client_id")
    invited = t.client_rounds.c
    left_out = select(invited.client_id).where(*matches(t.client_rounds, attempt), invited.participation == null())
    if forgotten := connection.scalars(left_out).all():
        raise StoreError(f"the end of {attempt} does not say what became of {forgotten}")


def _named(
    connection: Connection, attempt: Mapping[str, Any], outcomes: Sequence[e.ClientOutcome]
) -> list[e.ClientOutcome]:
    """The outcomes that name an update. Raises StoreError unless they are the attempt's undecided ones, each once."""
    named = [outcome for outcome in outcomes if outcome.update_id is not None]
    c = t.updates.c
    undecided = connection.execute(select(c.update_id, c.client_id).where(*_undecided(attempt))).all()
    if sorted((o.update_id, o.client_id) for o in named) != sorted(map(tuple, undecided)):
        raise StoreError(f"the end of {attempt} does not decide exactly its undecided updates")
    return named


def _abort_updates(connection: Connection, attempt: Mapping[str, Any], reason: str) -> None:
    clients = select(t.updates.c.client_id).where(*_undecided(attempt))
    aborted = {"decision": "aborted", "reason": reason}
    rows = (*matches(t.client_rounds, attempt), t.client_rounds.c.client_id.in_(clients))
    connection.execute(update(t.client_rounds).where(*rows).values(aborted))
    connection.execute(update(t.updates).where(*_undecided(attempt)).values(aborted))


def _undecided(attempt: Mapping[str, Any]) -> tuple[ColumnElement[bool], ...]:
    c = t.updates.c
    answers = (c.answers_round == attempt["round"], c.answers_attempt == attempt["attempt"])
    return (c.run_id == attempt["run_id"], *answers, c.decision == null())


def _status(connection: Connection, attempt: Mapping[str, Any]) -> str | None:
    return connection.scalar(select(t.rounds.c.status).where(*matches(t.rounds, attempt)))


def _checkpoint_deleted(connection: Connection, origin: Origin, event: e.CheckpointDeleted) -> None:
    attempt = _attempt(origin, event.round, event.attempt)
    change(connection, t.rounds, attempt, {"checkpoint_deleted_at": event.at})


DERIVATIONS: Derivations = {
    e.AttemptStarted: _attempt_started,
    e.UpdateReceived: _update_received,
    e.SuspectRejected: _suspect_rejected,
    e.SuspectsCount: lambda connection, origin, event: None,  # these stand in the record only
    e.RoundCommitted: _round_committed,
    e.AttemptAborted: _attempt_aborted,
    e.CheckpointDeleted: _checkpoint_deleted,
    e.WeightConcentrated: lambda connection, origin, event: None,  # it stands in the record only
}
