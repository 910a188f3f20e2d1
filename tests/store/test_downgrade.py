"""Every way down from the newest schema and up again, with a database in which everything happened once."""

import contextlib
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from flserver.audit.verify import Verification
from flserver.errors import UsageError
from flserver.store.purge import Selection, purge
from flserver.store.reader import Reader
from flserver.store.schema import check, downgrade, ensure_head, migrations_directory
from tests import facts
from tests.old_database import old_database
from tests.old_record import as_then
from tests.store import story

REVISIONS = sorted(file.name[:4] for file in (migrations_directory() / "versions").glob("[0-9]*.py"))
HEAD, EARLIER = REVISIONS[-1], REVISIONS[:-1]
Tables = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "runs.sqlite"
    ensure_head(path)
    story.write(path, story.sound_run())
    return path


@pytest.fixture
def database(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sound, tmp_path / "runs.sqlite"))


def schema(path: Path) -> dict[str, str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {name: re.sub(r"[\s\"]", "", sql) for name, sql in rows}


def tables(path: Path) -> Tables:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: [dict(row) for row in connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2, 3")]
            for name in names
            if name != "alembic_version"
        }


@pytest.mark.parametrize("revision", EARLIER)
def test_down_it_is_what_that_version_made(database: Path, revision: str, tmp_path: Path) -> None:
    before = tables(database)
    assert {name for name, rows in before.items() if not rows} == {"heads", "tree_nodes"}, "what else happens, has"
    done = downgrade(database, revision)
    assert (done.before, done.after) == (HEAD, revision)
    assert check(database).current == revision
    (tmp_path / "new").mkdir()
    made = tmp_path / "new" / "runs.sqlite"
    old_database(made, revision)
    expected = schema(made)
    found = schema(database)
    assert {name: sql for name, sql in found.items() if not name.startswith("sqlite_")} == expected
    after = tables(database)
    assert after["events"] == before["events"]
    for name, rows in after.items():
        kept = [{column: row[column] for column in rows[0]} for row in before[name]]
        assert rows == kept, f"{name}: what stays is as it was"


@pytest.mark.parametrize("revision", [EARLIER[-1], "0003"])
def test_down_nothing_of_it_was_changed_by_others(database: Path, revision: str) -> None:
    downgrade(database, revision)
    assert outcomes(database) == {"unknown", "holds"}, "only the tables wait for the next upgrade"
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("ALTER TABLE runs ADD COLUMN more TEXT")
    assert "broken" in outcomes(database)


@pytest.mark.parametrize("revision", ["0012", "0003"])
def test_down_a_column_with_nothing_missing_is_as_strict_as_it_was(database: Path, revision: str) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE clients SET info = NULL")
        connection.execute("UPDATE updates SET update_digest = 'blake3:00'")
    downgrade(database, revision)
    assert "broken" not in outcomes(database), "a purge is no tampering"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        for statement in ("UPDATE connections SET peer_host = NULL", "UPDATE connections SET peer_port = NULL"):
            with pytest.raises(sqlite3.IntegrityError, match="NOT NULL"):
                connection.execute(statement)
        connection.execute("UPDATE clients SET info = NULL")
        if revision == "0003":
            with pytest.raises(sqlite3.IntegrityError, match="NOT NULL"):
                connection.execute("UPDATE updates SET update_digest = NULL")


def outcomes(database: Path) -> set[str]:
    return {finding.outcome for finding in Verification(database, with_checkpoints=False).run()}


@pytest.mark.parametrize("revision", EARLIER)
def test_up_again_nothing_is_lost(database: Path, revision: str) -> None:
    rows, made, chain = tables(database), schema(database), Reader(database).verify_chain()
    downgrade(database, revision)
    done = ensure_head(database)
    assert done is not None
    assert (done.before, done.after) == (revision, HEAD)
    assert (tables(database), schema(database)) == (rows, made)
    assert Reader(database).verify_chain() == chain


@pytest.mark.parametrize("revision", [EARLIER[-1], "0009", "0005"])
def test_what_a_purge_took_stays_empty_and_all_else_is_filled(
    tmp_path: Path, revision: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    run = story.sound_run()
    story.write(path, [*run[:-3], facts.opened(99), facts.registered("99", 99, info={"site": "north"}), *run[-3:]])
    told = [(story.RUN, facts.operator_acted(kind="purge"))]
    purge(path, [Selection(run_id=story.RUN, client_id="99")], told, [])
    before = tables(path)
    downgrade(path, revision)
    assert [f.line for f in Verification(path, with_checkpoints=False).run() if f.outcome == "broken"] == []
    ensure_head(path)
    assert tables(path) == before
    assert outcomes(path) == {"holds"}
    assert "stay empty in older rows: event " in caplog.text


def test_what_no_event_has_any_more_is_not_taken(tmp_path: Path) -> None:
    """A purge took the update that says how many samples were counted (0006 has no column for that); of its direction
    it said nothing (0013 has no column for that)."""
    database = tmp_path / "runs.sqlite"
    ensure_head(database)
    story.write(database, as_then(story.sound_run(), "0013"))
    purge(database, [Selection(run_id=story.RUN, client_id="2")], [(story.RUN, facts.operator_acted(kind="purge"))], [])
    before = database.read_bytes()
    with pytest.raises(UsageError, match="cannot go down to 0004, which has no client_rounds") as refused:
        downgrade(database, "0004")
    nearer = str(refused.value).partition("It can go down to ")[2].partition(";")[0].split(", ")
    assert nearer == EARLIER[::-1][: len(nearer)]
    assert "0004" not in nearer
    assert (database.read_bytes(), list(database.parent.glob("*.before-*"))) == (before, [])
    downgrade(database, nearer[-1])
    ensure_head(database)
    assert outcomes(database) == {"holds"}


def test_a_payload_that_is_gone_keeps_the_others_from_nothing(database: Path) -> None:
    before = tables(database)
    downgrade(database, "0005")
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE events SET payload = NULL, salt = NULL WHERE seq = 1")
    ensure_head(database)
    after = tables(database)
    assert {name for name, rows in before.items() if after[name] != rows} <= {"events", "operator_events"}


@pytest.mark.parametrize("revision", ["0010x", HEAD, "base", ""])
def test_where_there_is_no_such_way_the_database_is_untouched(database: Path, revision: str) -> None:
    before = database.read_bytes()
    with pytest.raises(UsageError, match=f"is at {HEAD}: it can go down to {EARLIER[-1]}, "):
        downgrade(database, revision)
    assert database.read_bytes() == before
    assert list(database.parent.glob("*.before-*")) == []


def test_there_must_be_a_database(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no database"):
        downgrade(tmp_path / "runs.sqlite", "0001")
    assert list(tmp_path.iterdir()) == []
