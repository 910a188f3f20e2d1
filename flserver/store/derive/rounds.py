"""The rows that follow from rounds and updates.

Exactly one decision an update, and what was accepted is what was averaged: that promise is held here. An event that
contradicts it raises StoreError.
"""

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from sqlalchemy import update

from flserver import events as e
from flserver.errors import StoreError
from flserver.events.words import MeasuredOn, RoundStatus
from flserver.store import tables as t
from flserver.store.derive.attempts import AttemptKey, OpenAttempt
from flserver.store.derive.statements import Derivations, Origin, Rows, shared
from flserver.text import json_number


def _key(origin: Origin, event: e.AttemptStarted | e.RoundCommitted | e.AttemptAborted) -> AttemptKey:
    return (origin.run_id, event.round, event.attempt)


def _attempt_started(rows: Rows, origin: Origin, event: e.AttemptStarted) -> None:
    values = {"status": "running", "started_at": event.at, "clients": len(event.clients)}
    rows.insert_from(event, t.rounds, origin, **values)
    attempt = {"run_id": origin.run_id, "round": event.round, "attempt": event.attempt}
    for client in event.clients:
        rows.insert(t.client_rounds, attempt | {"client_id": client})
    for client, why in zip_longest(event.not_sent, event.why_not_sent):
        rows.insert(t.client_rounds, attempt | {"client_id": client, "participation": "not_sent", "reason": why})
    rows.attempts[_key(origin, event)] = OpenAttempt(dict.fromkeys(event.clients, False))


def _update_received(rows: Rows, origin: Origin, event: e.UpdateReceived) -> None:
    counted = event.data_size if event.counted_size is None else event.counted_size
    rows.insert_from(event, t.updates, origin, received_at=event.at, counted_size=counted)
    answers, attempt = (event.answers_round, event.answers_attempt), None
    if event.answers_round is not None and event.answers_attempt is not None:
        attempt = rows.attempts.get((origin.run_id, event.answers_round, event.answers_attempt))
    if event.decision is None and not (rows.gaps and attempt is None):
        if attempt is None:
            raise StoreError(f"update {event.update_id} has no decision, and no running attempt that would make one")
        attempt.undecided[event.update_id] = event.client_id
    if event.answers_round is None:
        return
    answer = {
        "decision": event.decision,
        "reason": event.reason,
        "data_size": event.data_size,
        "update_norm": event.update_norm,
        "update_cosine": event.update_cosine,
        "bytes_in": event.bytes,
        "counted_size": counted,
    }
    # A model is answered once.
    rows.change(t.client_rounds, (origin.run_id, *answers, event.client_id), answer, unset="bytes_in")
    if attempt is not None and event.client_id in attempt.invited:
        attempt.invited[event.client_id] = True
    measured: dict[MeasuredOn, int] = {"received": event.answers_round - 1, "trained": event.answers_round}
    row = {"run_id": origin.run_id, "client_id": event.client_id, "update_id": event.update_id, "source": "client"}
    for metric in event.metrics:
        of_metric = vars(metric) | {"round": measured[metric.measured_on], "note": _note(metric.value)}
        rows.put(t.client_metrics, row | of_metric)


def _suspect_rejected(rows: Rows, origin: Origin, event: e.SuspectRejected) -> None:
    decided = {"decision": "rejected", "reason": event.reason}
    attempt = rows.attempts.get((origin.run_id, event.round, event.attempt))
    known = attempt is not None and attempt.undecided.pop(event.update_id, None) is not None
    if not (known or rows.gaps):
        raise StoreError(f"updates has no open row for update {event.update_id} of attempt {event.attempt}")
    rows.change(t.updates, event.update_id, decided)
    rows.change(t.client_rounds, (origin.run_id, event.round, event.attempt, event.client_id), decided)


def _node_lost(rows: Rows, origin: Origin, event: e.NodeLost) -> None:
    decided = {"decision": "lost", "reason": f"{event.node} is gone: {event.reason}"}
    if event.slot is not None:
        ended = {"ended_at": event.at, "lost": 1, "end_reason": event.reason}
        rows.change(t.nodes, (origin.run_id, event.node), ended)
    for lost in event.updates:
        key = (origin.run_id, lost.round, lost.attempt)
        attempt = rows.attempts.get(key)
        known = attempt is not None and attempt.undecided.pop(lost.update_id, None) is not None
        if not (known or rows.gaps):
            raise StoreError(f"updates has no open row for update {lost.update_id} of attempt {lost.attempt}")
        rows.change(t.updates, lost.update_id, decided)
        rows.change(t.client_rounds, (*key, lost.client_id), decided)


def _round_committed(rows: Rows, origin: Origin, event: e.RoundCommitted) -> None:
    key = _key(origin, event)
    attempt = _end(rows, key, event)
    for outcome in event.outcomes:
        if outcome.update_id is not None:
            accepted = {"decision": "accepted", "weight": outcome.weight}
            rows.change(t.updates, outcome.update_id, accepted)
            rows.change(t.client_rounds, (*key, outcome.client_id), accepted)
    accepted_ones = {outcome.update_id for outcome in event.outcomes if outcome.update_id is not None}
    _end_attempt(rows, origin, attempt, event, "committed", updates_accepted=len(accepted_ones))
    for kept in event.kept:
        if kept.update_id not in accepted_ones:
            raise StoreError(f"the end of {key} keeps update {kept.update_id}, which it does not accept")
        rows.change(t.updates, kept.update_id, {"kept": kept.path})
    for metric in event.metrics:
        rows.put(t.round_metrics, vars(metric) | {"run_id": origin.run_id, "note": _note(metric.value)})


def _note(value: float) -> str | None:
    """What a number is that a REAL column cannot hold, and is NULL there: of a model that diverged, say."""
    written = json_number(value)
    return written if isinstance(written, str) else None


def _attempt_aborted(rows: Rows, origin: Origin, event: e.AttemptAborted) -> None:
    key = _key(origin, event)
    attempt = _end(rows, key, event)
    _abort_updates(rows, key, attempt, event.reason)
    _end_attempt(rows, origin, attempt, event, "aborted", updates_accepted=0, data_size=0)


def end_left_over(rows: Rows, origin: Origin, event: e.RunLeftOver) -> None:
    """Close the attempts that the run's server left open when it was killed, and decide their updates ``aborted``."""
    for key in [key for key in rows.attempts if key[0] == origin.run_id]:
        attempt = rows.attempts.end(key)
        _abort_updates(rows, key, attempt, event.reason)
        for client, answered in attempt.invited.items():
            participation = "answered" if answered else "cut_short"
            rows.change(t.client_rounds, (*key, client), {"participation": participation})
        ended = {"status": "aborted", "ended_at": event.at, "updates_accepted": 0, "data_size": 0}
        rows.change(t.rounds, key, ended | {"event_seq": origin.seq, "reason": event.reason})


def _end_attempt(
    rows: Rows,
    origin: Origin,
    attempt: OpenAttempt,
    event: e.RoundCommitted | e.AttemptAborted,
    status: RoundStatus,
    **values: Any,
) -> None:
    key = _key(origin, event)
    row = {name: value for name, value in shared(event, t.rounds).items() if name not in ("round", "attempt")}
    if event.clients is None:
        del row["clients"]
    ended = row | {"status": status, "ended_at": event.at, "event_seq": origin.seq} | values
    rows.change(t.rounds, key, ended)
    for outcome in event.outcomes:
        ended = {"participation": outcome.participation, "seconds": outcome.seconds}
        rows.change(t.client_rounds, (*key, outcome.client_id), ended)
    forgotten = attempt.invited.keys() - {outcome.client_id for outcome in event.outcomes}
    if forgotten and not rows.gaps:
        raise StoreError(f"the end of {key} does not say what became of {sorted(forgotten)}")


def _end(rows: Rows, key: AttemptKey, event: e.RoundCommitted | e.AttemptAborted) -> OpenAttempt:
    """The attempt, which is over. Raises StoreError where it does not run, and unless the outcomes name its undecided
    updates, each once."""
    if rows.gaps:
        return rows.attempts.pop(key, None) or OpenAttempt()
    attempt = rows.attempts.end(key)
    named = [(outcome.update_id, outcome.client_id) for outcome in event.outcomes if outcome.update_id is not None]
    if len(named) != len(attempt.undecided) or dict(named) != attempt.undecided:
        raise StoreError(f"the end of {key} does not decide exactly its undecided updates")
    return attempt


def _abort_updates(rows: Rows, key: AttemptKey, attempt: OpenAttempt, reason: str) -> None:
    aborted: Mapping[str, Any] = {"decision": "aborted", "reason": reason}
    for update_id, client in attempt.undecided.items():
        rows.change(t.updates, update_id, aborted)
        rows.change(t.client_rounds, (*key, client), aborted)


def _checkpoint_deleted(rows: Rows, origin: Origin, event: e.CheckpointDeleted) -> None:
    key = (origin.run_id, event.round, event.attempt)
    rows.change(t.rounds, key, {"checkpoint_deleted_at": event.at})


def _kept_updates_deleted(rows: Rows, origin: Origin, event: e.KeptUpdatesDeleted) -> None:
    rows.write()  # so that all that were kept are in the table
    kept = [
        t.updates.c.run_id == origin.run_id,
        t.updates.c.answers_round == event.round,
        t.updates.c.kept.is_not(None),
    ]
    if event.update_ids is not None:
        kept.append(t.updates.c.update_id.in_(event.update_ids))
    rows.connection.execute(update(t.updates).where(*kept).values(kept=None))


DERIVATIONS: Derivations = {
    e.AttemptStarted: _attempt_started,
    e.NodeLost: _node_lost,
    e.UpdateReceived: _update_received,
    e.SuspectRejected: _suspect_rejected,
    e.SuspectsCount: lambda rows, origin, event: None,  # these stand in the record only
    e.RoundCommitted: _round_committed,
    e.AttemptAborted: _attempt_aborted,
    e.CheckpointDeleted: _checkpoint_deleted,
    e.KeptUpdatesDeleted: _kept_updates_deleted,
    e.WeightConcentrated: lambda rows, origin, event: None,  # it stands in the record only
}
