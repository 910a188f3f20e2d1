"""An event that says payloads were purged is believed only what a purge can have done."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from flserver import events as e
from flserver.audit.verify import Verification
from flserver.store import tables as t
from flserver.store.purge import purge, row_digest
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


def left(db: Path, *names: str) -> tuple[e.RestingRow, ...]:
    """All rows of these tables as they are, as a purge says it."""
    found: list[e.RestingRow] = []
    with closing(sqlite3.connect(db)) as connection:
        connection.row_factory = sqlite3.Row
        for table in (table for table in t.DERIVED if table.name in names):
            for row in map(dict, connection.execute(f"SELECT * FROM {table.name}").fetchall()):
                key = tuple(row[column.name] for column in table.primary_key.columns)
                found.append(e.RestingRow(table=table.name, key=key, digest=row_digest(table, row)))
    return tuple(found)


def numbers(db: Path, *kinds: str) -> tuple[tuple[int, int], ...]:
    which = ", ".join(f"'{kind}'" for kind in kinds)
    with closing(sqlite3.connect(db)) as connection:
        query = f"SELECT seq, seq FROM events WHERE type IN ({which}) AND run_id = ? ORDER BY seq"
        return tuple(connection.execute(query, (story.RUN,)))


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
