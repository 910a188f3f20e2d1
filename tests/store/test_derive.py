"""The tables follow from the events, and from nothing else; a contradiction stops the record."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from flserver.errors import StoreError
from flserver.events import Event, KeptUpdate
from flserver.store import tables
from flserver.store.derive import DERIVATIONS, derive
from flserver.store.derive.statements import Origin, Rows
from flserver.store.payloads import EVENT_TYPES
from flserver.store.reader import Reader
from flserver.store.replay import rederive
from flserver.store.sqlite import driver_of, writing_engine
from tests import facts
from tests.facts import aborted, answered, attempt, committed, sent, silent
from tests.store import story
from tests.store.conftest import Ask


def test_every_event_has_a_derivation() -> None:
    assert set(DERIVATIONS) == set(EVENT_TYPES.values())


def test_the_tables_equal_a_replay_of_the_events(recorded: Path, ask: Ask) -> None:
    left = facts.run_left_over(story.LEFT)
    story.write(recorded, [left], process_id=3)
    names = [table.name for table in tables.DERIVED]
    before = {name: ask(f"SELECT * FROM {name} ORDER BY 1, 2, 3") for name in names}
    assert all(before.values())
    with writing_engine(recorded).begin() as connection:
        rederive(connection)
    assert {name: ask(f"SELECT * FROM {name} ORDER BY 1, 2, 3") for name in names} == before


def test_the_tables_are_the_same_however_events_share_transactions(database: Path, ask: Ask) -> None:
    names = [table.name for table in tables.DERIVED]
    first, second = story.whole_run(), [*story.left_over(), facts.run_left_over(story.LEFT)]
    told = [(story.RUN, event) for event in first] + [(story.LEFT, event) for event in second]
    found = []
    for size in (1, 7, len(told)):
        with writing_engine(database).begin() as connection:
            for table in reversed(tables.DERIVED):
                connection.execute(table.delete())
            rows = Rows(connection)
            for seq, (run_id, event) in enumerate(told, 1):
                derive(rows, Origin(seq, run_id, 1), event)
                if seq % size == 0:
                    rows.write()
                    rows = Rows(connection)  # as a process that begins here
            rows.write()
        found.append({name: ask(f"SELECT * FROM {name} ORDER BY 1, 2, 3") for name in names})
    assert all(found[0].values())
    assert found[1:] == found[:1] * 2


def test_a_round_of_many_takes_few_statements(database: Path) -> None:
    clients = [str(number) for number in range(1, 201)]
    engine = writing_engine(database)
    statements: list[str] = []
    with engine.begin() as connection:
        rows = Rows(connection)
        for seq, event in enumerate(a_round(clients), 1):
            derive(rows, Origin(seq, story.RUN, 1), event)
        driver_of(connection).set_trace_callback(statements.append)
        rows.write()
        driver_of(connection).set_trace_callback(None)
        written = connection.exec_driver_sql("SELECT COUNT(*) FROM updates WHERE decision = 'accepted'").scalar()
    assert written == len(clients)
    assert len(statements) < len(clients) / 4


def a_round(clients: list[str]) -> Iterator[Event]:
    """One in which all of them answer."""
    yield from story.started()
    for client in clients:
        yield from story.registered(client, int(client))
    yield from [attempt(0, 1, ()), committed(0), attempt(1, 1, tuple(clients))]
    for number, client in enumerate(clients, 1000):
        yield sent(number + 5000, client, 1, 1)
        yield from story.uploaded(number, client, (1, 1))
    yield committed(1, 1, [answered(client, number, 0.005) for number, client in enumerate(clients, 1000)])


def test_a_registration_is_on_record_as_it_was_sent(database: Path, ask: Ask) -> None:
    as_sent = {"id": "1", "data_size": 10.0, "last_loss": math.nan, "name": "\ud800"}
    sent = [facts.opened(1), facts.registered("1", 1, metadata=as_sent)]
    older = [facts.opened(2), facts.registered("2", 2, metadata=None)]
    story.write(database, [*story.started(), *sent, *older])
    written = '{"data_size":10.0,"id":"1","last_loss":"NaN","name":"\\ud800"}'
    expected = [("1", written), ("2", None)]
    assert ask("SELECT client_id, metadata FROM v1_clients ORDER BY client_id") == expected
    with writing_engine(database).begin() as connection:
        rederive(connection)
    assert ask("SELECT client_id, metadata FROM v1_clients ORDER BY client_id") == expected


def test_a_metric_that_is_no_finite_number_is_what_it_is(database: Path, ask: Ask) -> None:
    measured = {"loss": math.nan, "accuracy": 0.1, "up": math.inf, "down": -math.inf}
    metrics = tuple(facts.round_metric(0, name, value, "evaluate") for name, value in measured.items())
    ended = committed(0, loss=math.nan, accuracy=0.1, metrics=metrics)
    story.write(database, [*story.started(), attempt(0, 1, ()), ended])
    query = "SELECT name, value, note FROM v1_round_metrics ORDER BY name"
    expected = [("accuracy", 0.1, None), ("down", None, "-Infinity"), ("loss", None, "NaN"), ("up", None, "Infinity")]
    assert ask(query) == expected
    assert ask("SELECT loss, accuracy FROM v1_rounds") == [(None, 0.1)]
    with writing_engine(database).begin() as connection:
        rederive(connection)
    assert ask(query) == expected


def test_what_a_client_reports_is_on_record_as_it_was_sent(database: Path, ask: Ask) -> None:
    said = {"accuracy": 1e100, "down": -math.inf, "loss": math.nan}
    metrics = tuple(facts.client_metric(name, value) for name, value in said.items())
    story.write(database, [*story.ROUND_1, *story.uploaded(1, "1", (1, 1), metrics=metrics)])
    query = "SELECT name, value, note FROM v1_client_metrics ORDER BY name"
    expected = [("accuracy", 1e100, None), ("down", None, "-Infinity"), ("loss", None, "NaN")]
    assert ask(query) == expected
    with writing_engine(database).begin() as connection:
        rederive(connection)
    assert ask(query) == expected


def test_an_update_counts_with_what_the_cap_leaves_it_and_in_older_records_with_all(database: Path, ask: Ask) -> None:
    story.write(
        database,
        [
            *story.ROUND_1,
            *story.uploaded(1, "1", (1, 1), counted_size=7),
            *story.uploaded(2, "2", (1, 1)),
            *story.uploaded(3, "1", None, "duplicate"),
            committed(1, 1, [answered("1", 1, 7 / 107), answered("2", 2, 100 / 107)], data_size=107),
        ],
    )
    expected = [("1", 100, 7), ("2", 100, 100), ("1", 100, 100)]
    assert ask("SELECT client_id, data_size, counted_size FROM v1_updates ORDER BY update_id") == expected
    assert ask("SELECT client_id, data_size, counted_size FROM v1_client_rounds ORDER BY 1") == expected[:2]
    summed = "SELECT SUM(counted_size) FROM v1_updates WHERE decision = 'accepted'"
    assert ask(summed) == ask("SELECT data_size FROM v1_rounds WHERE round = 1") == [(107,)]


def test_a_purged_record_is_not_replayed(recorded: Path, ask: Ask) -> None:
    engine = writing_engine(recorded)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE events SET payload = NULL, salt = NULL WHERE seq = 7")
    with pytest.raises(StoreError, match="event 7 was purged"), engine.begin() as connection:
        rederive(connection)
    assert ask("SELECT COUNT(*) FROM runs") == [(2,)]


def test_runs(recorded: Path, ask: Ask) -> None:
    assert ask(
        "SELECT run_id, name, status, num_rounds, rounds_committed, seed, config, final_digest, server_version,"
        " ended_at IS NULL FROM v1_runs ORDER BY run_id"
    ) == [
        (story.RUN, "night", "running", 3, 1, 2**63 - 1, '{"num_rounds":3}', None, "0.1.0", 1),
        (story.LEFT, "killed", "running", 2, 0, 2**63 - 1, '{"num_rounds":2,"round_timeout":3600.0}', None, "0.1.0", 1),
    ]
    assert ask("SELECT min_updates FROM runs") == [(2,), (None,)]


def test_a_run_that_ended(database: Path, ask: Ask) -> None:
    end = facts.run_ended()
    story.write(database, [*story.started(), end])
    assert ask("SELECT status, ended_at, final_digest FROM v1_runs") == [("completed", end.at, "sha256:1")]


def test_processes_and_operator_events(recorded: Path, ask: Ask) -> None:
    assert ask("SELECT process_id, run_id, pid, exit_code, ended_at IS NULL FROM v1_processes") == [
        (1, story.RUN, 4711, 3, 0),
        (2, story.LEFT, 4711, None, 1),
    ]
    assert ask("SELECT run_id, process_id, kind, detail FROM v1_operator_events") == [
        (story.RUN, 1, "start", '{"argv":["flserver"]}')
    ]


def test_connections(recorded: Path, ask: Ask) -> None:
    query = "SELECT client_id, purpose, close_reason, bytes_in, bytes_out FROM v1_connections WHERE connection_id = ?"
    assert ask(query, 1) == [("1", "register", "reset", 80, 2016)]
    assert ask(query, 2) == [("2", "register", None, None, None)]  # known before it closes
    assert ask(query, 8) == [(None, "unknown", "refused", 8, 0)]
    assert ask(query, 101) == [("1", "upload", "done", 1008, 0)]


def test_clients(recorded: Path, ask: Ask) -> None:
    query = (
        "SELECT client_id, registration, data_size, info, left_reason FROM v1_clients WHERE run_id = ? ORDER BY 1, 2"
    )
    assert ask(query, story.RUN) == [
        ("1", 1, 100, '{"epochs":8}', "reset"),
        ("1", 2, 150, '{"epochs":8}', None),
        ("2", 1, 100, '{"epochs":8}', None),
        ("3", 1, 100, '{"epochs":8}', None),
    ]


def test_messages_and_their_odd_headers(recorded: Path, ask: Ask) -> None:
    assert ask("SELECT header, direction, outcome, reason FROM v1_messages WHERE message_id = 6") == [
        (r"<\ud800>", "in", "refused", "a length of 5 GB")
    ]
    assert ask("SELECT direction, round, digest, seconds FROM v1_messages WHERE message_id IN (1, 103)") == [
        ("out", 1, "sha256:aa", 0.25),
        ("in", 1, "sha256:bb", 0.5),
    ]


def test_updates_have_one_decision_each(recorded: Path, ask: Ask) -> None:
    columns = "update_id, decision, reason, weight, answers_round, answers_attempt"
    query = f"SELECT {columns} FROM v1_updates WHERE run_id = ? ORDER BY 1"
    assert ask(query, story.RUN) == [
        (1, "aborted", "quorum", None, 1, 1),
        (2, "rejected", "shape: fc1.weight is (1,)", None, 1, 1),
        (3, "late", None, None, 1, 1),
        (4, "accepted", None, 0.5, 1, 2),
        (5, "duplicate", None, None, None, None),
        (6, "accepted", None, 0.5, 1, 2),
    ]


def test_rounds(recorded: Path, ask: Ask) -> None:
    query = (
        "SELECT round, attempt, status, clients, updates_accepted, data_size, seconds, deadline_at IS NULL,"
        " checkpoint_deleted_at IS NULL, accuracy, base_digest, model_digest FROM v1_rounds WHERE run_id = ?"
    )
    assert ask(query, story.RUN) == [
        (0, 1, "committed", 0, 0, 0, 4.0, 1, 0, 0.1, None, "sha256:0"),
        (1, 1, "aborted", 3, 0, 0, 2.0, 0, 1, None, "sha256:0", None),
        (1, 2, "committed", 2, 2, 200, 4.0, 0, 1, 0.9, "sha256:0", "sha256:1"),
    ]
    ends = ask("SELECT type FROM v1_events JOIN v1_rounds ON event_seq = seq WHERE round = 1 ORDER BY seq")
    assert ends == [("AttemptAborted",), ("RoundCommitted",)]
    reasons = ask("SELECT reason FROM v1_rounds WHERE run_id = ? ORDER BY round, attempt", story.RUN)
    assert reasons == [(None,), ("quorum",), (None,)]


def test_a_round_says_with_which_arithmetic_it_was_made_and_an_older_one_does_not(database: Path, ask: Ask) -> None:
    asked = "SELECT arithmetic FROM v1_runs"
    story.write(database, [*story.started(), attempt(0, 1, ()), committed(0)])
    assert ask(asked) == [(None,)]
    story.write(database, [attempt(1, 1, ()), committed(1, arithmetic="a"), attempt(2, 1, ()), aborted(2, 1, [])])
    assert ask("SELECT round, arithmetic FROM v1_rounds ORDER BY round") == [(0, None), (1, "a"), (2, None)]
    assert ask(asked) == [("a",)]


def test_client_rounds(recorded: Path, ask: Ask) -> None:
    query = (
        "SELECT attempt, client_id, participation, decision, reason, weight, seconds, bytes_in, bytes_out"
        " FROM v1_client_rounds WHERE run_id = ? ORDER BY 1, 2"
    )
    assert ask(query, story.RUN) == [
        (1, "1", "answered", "aborted", "quorum", None, 3.0, 1008, 1008),
        (1, "2", "answered", "rejected", "shape: fc1.weight is (1,)", None, 3.0, 1008, 1008),
        (1, "3", "timed_out", "late", None, None, None, 1008, 1008),
        (2, "1", "answered", "accepted", None, 0.5, 3.0, 1008, 1008),
        (2, "2", "answered", "accepted", None, 0.5, 3.0, 1008, 1008),
        (2, "3", "not_sent", None, None, None, None, None, None),
    ]


def test_participation_while_an_attempt_runs(database: Path, ask: Ask) -> None:
    started = attempt(1, 1, ("1",), not_sent=("2", "3"), why_not_sent=("it owes an answer", "it sits out"))
    story.write(database, [*story.ROUND_1[:-1], started, attempt(1, 2, (), not_sent=("2",))])
    assert ask("SELECT client_id, participation, reason FROM v1_client_rounds ORDER BY attempt, 1") == [
        ("1", None, None),
        ("2", "not_sent", "it owes an answer"),
        ("3", "not_sent", "it sits out"),
        ("2", "not_sent", None),  # an older record does not say why
    ]
    assert ask("SELECT clients, status FROM v1_rounds WHERE round = 1") == [(1, "running"), (0, "running")]


def test_a_model_not_fully_sent_has_no_time(database: Path, ask: Ask) -> None:
    story.write(database, [*story.ROUND_1, sent(1, "1", 1, 1), sent(2, "2", 1, 1, "failed")])
    assert ask("SELECT client_id, sent_at, bytes_out FROM v1_client_rounds") == [
        ("1", "2026-01-31T09:00:01.000000Z", 1008),
        ("2", None, None),
    ]


def test_metrics(recorded: Path, ask: Ask) -> None:
    assert ask("SELECT round, name, value, source FROM v1_round_metrics ORDER BY source") == [
        (0, "loss", 2.25, "clients"),
        (0, "loss", 2.3, "server"),
    ]
    query = "SELECT round, client_id, name, value, measured_on, source FROM v1_client_metrics ORDER BY 1, 3"
    assert ask(query) == [
        (0, "1", "loss", 2.25, "received", "client"),
        (1, "1", "accuracy", None, "trained", "client"),  # it was no number
        (1, "1", "loss", 0.5, "trained", "client"),  # the second attempt's, not the first's
        (1, "1", "seconds", None, "trained", "client"),
    ]


def test_a_duplicates_metrics_are_of_no_round(database: Path, ask: Ask) -> None:
    metric = facts.client_metric(value=1.0)
    story.write(database, [*story.ROUND_1, *story.uploaded(1, "1", None, "duplicate", metrics=[metric])])
    assert ask("SELECT COUNT(*) FROM v1_client_metrics") == [(0,)]


def test_a_left_over_run_is_closed(recorded: Path, ask: Ask) -> None:
    left = facts.run_left_over(story.LEFT)
    story.write(recorded, [left], process_id=3)
    run = "WHERE run_id = ?"
    assert ask(f"SELECT status, ended_at FROM v1_runs {run}", story.LEFT) == [("interrupted", None)]
    assert ask(f"SELECT ended_at, exit_code FROM v1_processes {run}", story.LEFT) == [(None, None)]
    found = ask(f"SELECT status, ended_at, reason FROM v1_rounds {run} AND round = 1", story.LEFT)
    assert found == [("aborted", left.at, "server stopped")]
    assert ask(f"SELECT decision, reason FROM v1_updates {run}", story.LEFT) == [("aborted", "server stopped")]
    assert ask(f"SELECT client_id, participation, decision, reason FROM v1_client_rounds {run}", story.LEFT) == [
        ("1", "answered", "aborted", "server stopped"),
        ("2", "cut_short", None, None),
    ]
    assert ask(f"SELECT DISTINCT left_at, left_reason FROM v1_clients {run}", story.LEFT) == [
        (left.at, "server stopped")
    ]
    closed = f"SELECT connection_id, close_reason FROM v1_connections {run} ORDER BY 1"
    assert ask(closed, story.LEFT) == [(11, "server stopped"), (12, "server stopped"), (107, "done")]
    # Nothing of the other run was touched.
    assert ask(f"SELECT status FROM v1_runs {run}", story.RUN) == [("running",)]
    assert ask(f"SELECT COUNT(*) FROM v1_connections {run} AND closed_at IS NULL", story.RUN) == [(3,)]


COUNTED = story.uploaded(1, "1", (1, 1))
LATE = story.uploaded(2, "2", (1, 1), "late")


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([*COUNTED, committed(1, 1, [silent("1"), silent("2")])], "exactly its undecided updates"),
        ([*COUNTED, aborted(1, 1, [silent("1"), silent("2")])], "exactly its undecided updates"),
        ([*COUNTED, committed(1, 1, [answered("1", 1, 0.5), answered("2", 1, 0.5)])], "exactly its undecided"),
        ([*COUNTED, committed(1, 1, [silent("1"), answered("2", 1, 1.0)])], "exactly its undecided updates"),
        ([*LATE, committed(1, 1, [silent("1"), answered("2", 2, 1.0)])], "exactly its undecided updates"),
        ([committed(1, 1, [silent("1"), answered("2", 99, 1.0)])], "exactly its undecided updates"),
        ([committed(1, 1, [silent("1")])], "does not say what became of .*2"),
        ([committed(1, 1, [silent("1"), silent("2"), silent("3")])], "no open row"),
        ([committed(1, 2, [])], "no open row"),
        ([committed(0)], "no open row"),
        ([attempt(0, 2, ()), committed(0, 2)], "UNIQUE constraint failed: rounds.run_id, rounds.round"),
        ([*COUNTED, *story.uploaded(3, "1", (1, 1), "late")], "no open row"),
        ([*story.uploaded(1, "1", (0, 1))], "has no decision"),
        ([*story.uploaded(1, "1", None)], "has no decision"),
        ([facts.closed(9)], "no open row"),
        ([sent(1, "1", 1, 1, "ok"), sent(1, "1", 1, 1, "ok")], "UNIQUE constraint failed"),
    ],
)
def test_a_contradiction_stops_the_record(database: Path, ask: Ask, events: list[Event], message: str) -> None:
    story.write(database, story.ROUND_1)
    before = ask("SELECT COUNT(*) FROM events")
    with pytest.raises(Exception, match=message):
        story.write(database, events)
    # Nothing of the transaction stays: no event without its rows.
    assert ask("SELECT COUNT(*) FROM events") == before
    assert ask("SELECT COUNT(*) FROM updates") == [(0,)]


def test_an_update_is_kept_from_the_commit_to_its_deletion(database: Path, ask: Ask) -> None:
    kept = [KeptUpdate(update_id=1, path="…/a.safetensors")]
    outcomes = [answered("1", 1, 1.0), silent("2")]
    made = [*story.ROUND_1, *story.uploaded(1, "1", (1, 1)), committed(1, 1, outcomes, kept=tuple(kept))]
    story.write(database, [*made, *story.uploaded(2, "2", (1, 1), "late")])
    where = "SELECT update_id, kept FROM v1_updates ORDER BY update_id"
    assert ask(where) == [(1, "…/a.safetensors"), (2, None)]
    assert Reader(database).kept_rounds(story.RUN) == {1}
    story.write(database, [facts.kept_updates_deleted(1)], process_id=2)
    assert ask(where) == [(1, None), (2, None)]
    assert Reader(database).kept_rounds(story.RUN) == frozenset()


def test_what_was_not_accepted_is_not_kept(database: Path) -> None:
    kept = (KeptUpdate(update_id=2, path="…/b.safetensors"),)
    made = [*story.ROUND_1, *story.uploaded(1, "1", (1, 1)), *story.uploaded(2, "2", None, "duplicate")]
    outcomes = [answered("1", 1, 1.0), silent("2")]
    with pytest.raises(StoreError, match="keeps update 2"):
        story.write(database, [*made, committed(1, 1, outcomes, kept=kept)])
