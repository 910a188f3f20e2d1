"""A record that was begun by an older version holds: what an upgrade fills in is what the events say."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from flserver.audit.report import Report
from flserver.audit.verify import Verification
from flserver.store.schema import ensure_head, migrations_directory
from tests.old_record import old_record

REVISIONS = sorted(path.name.partition("_")[0] for path in (migrations_directory() / "versions").glob("[0-9]*.py"))


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
