"""A record that was begun by an older version holds: what an upgrade fills in is what the events say."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from flserver import events as e
from flserver.audit.report import Report
from flserver.audit.verify import Verification
from flserver.store.schema import ensure_head, migrations_directory
from tests import facts
from tests.old_database import old_database
from tests.store import story

REVISIONS = sorted(path.name.partition("_")[0] for path in (migrations_directory() / "versions").glob("[0-9]*.py"))
DIVERGED = facts.round_metric(name="loss", source="evaluate", value=float("nan"))


def as_then(events: Iterable[e.Event], revision: str) -> Iterator[e.Event]:
    """The events as a version of that schema emitted them."""
    for event in events:
        if isinstance(event, e.PeerIdentified) and revision < "0002":
            continue
        if isinstance(event, e.StrangersSummed) and revision < "0006":
            continue
        if isinstance(event, e.ClientRegistered) and revision < "0003":
            event = replace(event, metadata=None)
        if isinstance(event, e.UpdateReceived) and revision < "0014":
            event = replace(event, update_cosine=None)
        if isinstance(event, e.RoundCommitted) and event.round == 0:
            event = replace(event, metrics=(*event.metrics, DIVERGED))
        yield event


def old_record(path: Path, revision: str) -> None:
    """A record as that version has left it: the tables' columns of then."""
    now = path.with_name("now.sqlite")
    ensure_head(now)
    story.write(now, as_then(story.sound_run(), revision))
    story.write(now, as_then(story.left_over(), revision), run_id=story.LEFT, process_id=2)
    story.write(now, [facts.run_left_over(story.LEFT)], process_id=3)
    old_database(path, revision)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ATTACH ? AS now", (str(now),))
        for (table,) in connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
            if table != "alembic_version":
                columns = ", ".join(row[1] for row in connection.execute(f"PRAGMA main.table_info({table})"))
                connection.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM now.{table}")
        if revision < "0013":
            for table in ("round_metrics", "client_metrics"):
                if "note" in {row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")}:
                    connection.execute(f"UPDATE main.{table} SET note = NULL")  # from before there was one


def verdict(path: Path) -> tuple[str, list[str]]:
    report = Report()
    for finding in Verification(path, with_checkpoints=False).run():
        report.add(finding)
    return report.outcome, [finding.line for finding in report.findings]


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_record_of_every_version_holds_before_its_upgrade_and_after_it(tmp_path: Path, revision: str) -> None:
    path = tmp_path / "old.sqlite"
    old_record(path, revision)
    before = path.read_bytes()
    assert verdict(path) == ("holds", [])
    assert path.read_bytes() == before
    ensure_head(path)
    assert verdict(path) == ("holds", [])


def test_an_edit_from_before_the_upgrade_is_found(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    old_record(path, "0001")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE updates SET data_size = 5 WHERE update_id = 4")
    outcome, (found, more) = verdict(path)
    assert outcome == "broken"
    assert "updates update_id 4: " in found
    assert "data_size is 5, by the events 100" in found
    assert "its accepted updates have 105" in more
    ensure_head(path)
    assert verdict(path)[0] == "broken"


def test_a_view_that_an_upgrade_would_make_anew_is_looked_at_before_it(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    old_record(path, "0002")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP VIEW v1_clients")
    outcome, lines = verdict(path)
    assert outcome == "broken"
    assert lines[0] == "schema: the view v1_clients is missing: it is not what the migrations make"
