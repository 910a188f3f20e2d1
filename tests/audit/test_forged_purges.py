"""An event that says payloads were purged is believed only what a purge can have done."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from flserver import events as e
from flserver.audit.verify import Verification
from flserver.store import tables as t
from flserver.store.purge import PURGEABLE, RESTING, Selection, purge, row_digest
from flserver.store.schema import ensure_head
from tests.store import story

ACT = e.OperatorActed(kind="purge", detail={}, actor="a", reason=None)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    story.write(path, story.sound_run())
    return path


def edit(db: Path, statement: str) -> None:
    with closing(sqlite3.connect(db)) as connection, connection:
        assert connection.execute(statement).rowcount > 0


def left(db: Path, *names: str, run: str = story.RUN) -> tuple[e.RestingRow, ...]:
    """All rows of a run in these tables as they are, as a purge says it."""
    found: list[e.RestingRow] = []
    with closing(sqlite3.connect(db)) as connection:
        connection.row_factory = sqlite3.Row
        for table in (table for table in t.DERIVED if table.name in names):
            for row in map(dict, connection.execute(f"SELECT * FROM {table.name} WHERE run_id = ?", (run,)).fetchall()):
                key = tuple(row[column.name] for column in table.primary_key.columns)
                found.append(e.RestingRow(table=table.name, key=key, digest=row_digest(table, row)))
    return tuple(found)


def numbers(db: Path, *kinds: str, run: str = story.RUN) -> tuple[tuple[int, int], ...]:
    which = ", ".join(f"'{kind}'" for kind in kinds)
    with closing(sqlite3.connect(db)) as connection:
        query = f"SELECT seq, seq FROM events WHERE type IN ({which}) AND run_id = ? ORDER BY seq"
        return tuple(connection.execute(query, (run,)))


def forge(db: Path, *told: e.Event) -> None:
    purge(db, [], [(story.RUN, event) for event in told], [])


def purged(sequences: Sequence[tuple[int, int]], rows: tuple[e.RestingRow, ...]) -> e.PayloadsPurged:
    return e.PayloadsPurged(run_id=story.RUN, sequences=tuple(sequences), rows=rows)


def found(db: Path) -> list[str]:
    return [each.line for each in Verification(db, with_checkpoints=False).run() if each.outcome != "holds"]


def erase(db: Path, *kinds: str) -> None:
    which = ", ".join(f"'{kind}'" for kind in kinds)
    edit(db, f"UPDATE events SET payload = NULL, salt = NULL WHERE type IN ({which})")


@pytest.mark.parametrize("table", ["rounds", "runs"])
def test_no_row_is_sealed_of_a_table_that_no_purge_touches(db: Path, table: str) -> None:
    edit(db, f"UPDATE {table} SET {'data_size' if table == 'rounds' else 'seed'} = 999")
    erase(db, "MessageSent")
    forge(db, purged(numbers(db, "MessageSent"), left(db, table, "messages")), ACT)
    lines = found(db)
    assert any(f"it says that a purge has left a row of {table}, which none touches" in line for line in lines)
    assert any(line.startswith(table) and " is 999, by the events " in line for line in lines)


def test_no_row_is_sealed_where_no_payload_went(db: Path) -> None:
    edit(db, "UPDATE client_rounds SET data_size = 999")
    forge(db, purged((), left(db, "client_rounds")), ACT)
    lines = found(db)
    assert any("it says that a purge has left rows, and no payload went" in line for line in lines)
    assert any("data_size is 999, by the events" in line for line in lines)


@pytest.mark.parametrize(("kind", "erased"), [("RoundCommitted", True), ("UpdateReceived", False)])
def test_it_covers_no_event_that_stays(db: Path, kind: str, erased: bool) -> None:
    """Neither one that no purge takes, nor one whose payload is there, nor one that is still to come."""
    if erased:
        erase(db, kind)
    forge(db, purged(numbers(db, kind), ()), ACT)
    assert any("were purged, which they were not" in line for line in found(db))


def test_a_purge_without_an_act_does_not_hold(db: Path) -> None:
    erase(db, "MessageSent")
    forge(db, purged(numbers(db, "MessageSent"), ()))
    assert any("no operator's act follows it" in line for line in found(db))
    forge(db, ACT)
    assert not any("no operator's act follows it" in line for line in found(db))


def test_a_row_that_events_still_give_is_held_against_them(db: Path) -> None:
    erase(db, "MessageSent")
    edit(db, "UPDATE updates SET data_size = 999 WHERE update_id = 4")
    forge(db, purged(numbers(db, "MessageSent"), left(db, "messages", "updates")), ACT)
    assert any("updates update_id 4: data_size is 999, by the events " in line for line in found(db))


RUNS = (story.RUN, story.LEFT)


@pytest.fixture
def two(db: Path) -> Path:
    """That run, and one whose server was killed in an attempt."""
    story.write(db, story.left_over(), run_id=story.LEFT, process_id=2)
    return db


def purge_unseen(db: Path) -> None:
    """What a purge does once it has verified the record: whoever edits a record leaves that out."""
    purge(db, [Selection(run_id=run) for run in RUNS], [(run, ACT) for run in RUNS], [story.LEFT])


def test_a_purge_that_is_said_twice_holds(two: Path) -> None:
    purge_unseen(two)
    assert found(two) == []
    say_again(two)
    assert found(two) == []


def say_again(db: Path) -> None:
    """The same purge, with the rows as they stand now."""
    kinds = tuple(kind.__name__ for kind in PURGEABLE)
    for run in RUNS:
        told = e.PayloadsPurged(run_id=run, sequences=numbers(db, *kinds, run=run), rows=left(db, *RESTING, run=run))
        purge(db, [], [(run, told), (run, ACT)], [])


SEAT = "attempt = {} AND client_id = '{}'"
UPDATES = {
    "UPDATE updates SET decision = 'rejected' WHERE update_id = 4": "decision is rejected, by the events accepted",
    "UPDATE updates SET weight = 0.25 WHERE update_id = 4": "weight is 0.25, by the events 0.5",
    "UPDATE updates SET client_id = '2' WHERE update_id = 4": "client_id is 2, by the events 1",
    "UPDATE updates SET answers_attempt = 1 WHERE update_id = 4": "answers_attempt is 1, by the events 2",
    "UPDATE updates SET kept = 'a/b' WHERE update_id = 4": "kept is a/b, by the events NULL",
    "UPDATE updates SET counted_size = 100 + update_id - 5 WHERE update_id IN (4, 6)": "counted_size is 99, by the",
    "UPDATE updates SET decision = 'accepted' WHERE update_id = 5": "decision is accepted, by the events NULL",
    "UPDATE updates SET decision = 'late' WHERE update_id = 1": "decision is late, by the events aborted",
    "UPDATE updates SET decision = 'aborted' WHERE update_id = 3": "decision is aborted, by the events NULL",
    "UPDATE updates SET weight = 0.5 WHERE update_id = 3": "weight is 0.5, by the events NULL",
}
SEATS = {
    f"UPDATE client_rounds SET decision = NULL WHERE {SEAT.format(2, 1)}": "decision is NULL, by the events accepted",
    f"UPDATE client_rounds SET participation = 'dropped' WHERE {SEAT.format(2, 1)}": "participation is dropped, by",
    f"UPDATE client_rounds SET seconds = 77 WHERE {SEAT.format(2, 1)}": "seconds is 77.0, by",
    f"UPDATE client_rounds SET counted_size = 7 WHERE {SEAT.format(2, 1)}": "counted_size is 7, by",
    f"UPDATE client_rounds SET decision = 'accepted' WHERE {SEAT.format(1, 3)}": "decision is accepted, by the events",
    f"UPDATE client_rounds SET weight = 1 WHERE {SEAT.format(1, 3)}": "weight is 1.0, by the events NULL",
    "DELETE FROM updates WHERE update_id = 4": "updates update_id 4: the row is missing",
}
COUNTS = {
    "DELETE FROM updates WHERE update_id = 5": f"updates run_id {story.RUN}: it has 5 rows, and its events have made 6",
    "DELETE FROM messages WHERE message_id = 3": f"messages run_id {story.RUN}: it has 11 rows, and its events have",
    "DELETE FROM clients WHERE registration = 2": f"clients run_id {story.RUN}: it has 3 rows, and its events have",
    "DELETE FROM connections WHERE connection_id = 8": f"connections run_id {story.RUN}: it has ",
}
LEFT = {
    "UPDATE updates SET reason = 'names: no' WHERE update_id = 2": "reason is names: no, by the events NULL",
    "UPDATE connections SET peer_host = '192.0.2.1' WHERE connection_id = 8": "peer_host is 192.0.2.1, by the events N",
    f"INSERT INTO client_rounds (run_id, round, attempt, client_id) VALUES ('{story.RUN}', 1, 2, '9')": (
        "client_id 9: no event says so"
    ),
}


@pytest.mark.parametrize("edits", [UPDATES, SEATS, COUNTS])
def test_a_purge_hides_no_edit_of_what_events_that_stay_say(two: Path, edits: dict[str, str]) -> None:
    for statement in edits:
        edit(two, statement)
    purge_unseen(two)
    lines = "\n".join(found(two))
    assert [said for said in edits.values() if said not in lines] == [], lines


def test_nor_what_no_purge_leaves(two: Path) -> None:
    purge_unseen(two)
    for statement in LEFT:
        edit(two, statement)
    say_again(two)
    lines = "\n".join(found(two))
    assert [said for said in LEFT.values() if said not in lines] == [], lines


def test_rows_that_no_payload_went_of_are_not_what_a_forged_purge_says(db: Path) -> None:
    """One payload is erased, and rows sealed that events still give."""
    erase(db, "ConnectionClosed")
    edit(db, "UPDATE client_rounds SET update_norm = 999, bytes_out = 999 WHERE attempt = 2 AND client_id = '1'")
    edit(db, "UPDATE client_metrics SET value = 999 WHERE name = 'loss'")
    edit(db, "UPDATE summaries SET connections = 999")
    edit(db, "UPDATE connections SET opened_at = '1999'")
    forge(db, purged(numbers(db, "ConnectionClosed"), left(db, *RESTING)), ACT)
    lines = "\n".join(found(db))
    for said in ("update_norm is 999.0, by", "bytes_out is 999, by", "value is 999.0, by", "connections is 999, by"):
        assert said in lines
    assert "opened_at is 1999, by" in lines
