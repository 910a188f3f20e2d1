"""A record is copied from one database into another and is the same there, or is not there."""

import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from flserver.audit import moving
from flserver.audit.moving import Moved, copy_to
from flserver.errors import UsageError
from flserver.settings.places import Address, Place
from flserver.store import tables as t
from flserver.store.database import at
from flserver.store.reader import Reader
from flserver.store.schema import downgrade, ensure_head
from tests import golden
from tests.cli.conftest import Run
from tests.patience import PATIENCE, eventually
from tests.postgres_server import PostgresDatabase
from tests.store import story
from tests.store.contract import typed


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("golden") / "runs.sqlite"
    golden.old_record(path)
    ensure_head(path)
    return path


@pytest.fixture
def record(old: Path, tmp_path: Path) -> Path:
    """One of two runs, with signed heads."""
    return Path(shutil.copy(old, tmp_path / "runs.sqlite"))


def rows_of(place: Place) -> dict[str, list[list[tuple[str, object]]]]:
    reader = Reader(place)
    found = {}
    for table in (t.events, *t.DERIVED, t.tree_nodes):
        keys = ", ".join(table.primary_key.columns.keys())
        found[table.name] = typed(reader.query(f"SELECT * FROM {table.name} ORDER BY {keys}")[1])
    return found


@pytest.mark.postgres
def test_there_and_back_it_is_the_same(flserver: Run, record: Path, postgres: PostgresDatabase) -> None:
    address, back = Address(postgres.url()), record.with_name("back.sqlite")
    head = Reader(record).head()
    assert head is not None
    code, out, err = flserver("db", "copy", str(record), str(address))
    assert (code, err) == (0, "")
    assert f"has all {head.seq} events of {record}, to {head.digest()}" in out
    assert copy_to(address, back) == Moved(events=head.seq, head=head.digest())
    assert rows_of(record) == rows_of(address) == rows_of(back)
    assert back.stat().st_mode & 0o007 == 0
    assert not [path for path in record.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.postgres
def test_a_server_goes_on_behind_the_copied_chain(record: Path, postgres: PostgresDatabase) -> None:
    address = Address(postgres.url())
    before = copy_to(record, address).events
    number = at(address).id_seeds().process_id
    assert number > max(row[0] for row in Reader(record).query("SELECT process_id FROM v1_processes")[1])
    story.write(address, story.started("r9", number, "later"), run_id="r9", process_id=number)
    assert Reader(address).verify_chain().events == before + 2
    assert Reader(address).verify_chain().problems == ()


@pytest.mark.postgres
def test_nothing_is_written_over(record: Path, postgres: PostgresDatabase) -> None:
    address = Address(postgres.url())
    copy_to(record, address)
    with pytest.raises(UsageError, match="has a record already"):
        copy_to(record, address)
    assert rows_of(address) == rows_of(record), "and what was there is there still"
    with pytest.raises(UsageError, match="is there already"):
        copy_to(address, record)


def test_a_file_is_copied_to_a_file(record: Path) -> None:
    copy_to(record, record.with_name("other.sqlite"))
    assert rows_of(record) == rows_of(record.with_name("other.sqlite"))


@pytest.mark.postgres
def test_what_does_not_hold_is_not_copied(flserver: Run, record: Path, postgres: PostgresDatabase) -> None:
    with closing(sqlite3.connect(record)) as connection, connection:
        connection.execute("UPDATE rounds SET accuracy = 0.99 WHERE round = 5")
    code, _, err = flserver("db", "copy", str(record), postgres.url())
    assert code == 1
    assert "accuracy" in err
    assert f"{record} does not hold: nothing was copied" in err
    assert postgres.ask("SELECT COUNT(*) FROM events") == [(0,)]


@pytest.mark.postgres
def test_a_copy_that_does_not_hold_is_taken_away(record: Path, postgres: PostgresDatabase) -> None:
    postgres.ask("CREATE RULE more AS ON INSERT TO heads DO ALSO UPDATE runs SET name = 'another'")
    done = copy_to(record, Address(postgres.url()))
    assert "the rule more was added" in done.problems[0]
    assert postgres.ask("SELECT COUNT(*) FROM events") == [(0,)]
    assert postgres.ask("SELECT seq FROM flserver.head") == [(0,)]


@pytest.mark.postgres
def test_a_copy_that_could_not_be_verified_is_taken_away(
    record: Path, postgres: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, verify = Address(postgres.url()), moving._problems

    def gone_meanwhile(place: Place) -> tuple[str, ...]:
        if place == address:
            raise UsageError("it is gone")
        return verify(place)

    monkeypatch.setattr(moving, "_problems", gone_meanwhile)
    with pytest.raises(UsageError, match="it is gone"):
        copy_to(record, address)
    assert postgres.ask("SELECT COUNT(*) FROM events") == [(0,)]


@pytest.mark.postgres
def test_nobody_goes_on_from_a_copy_that_was_killed_before_it_was_verified(
    flserver: Run, record: Path, postgres: PostgresDatabase
) -> None:
    address = Address(postgres.url())
    killed = f"""
import os, signal
from pathlib import Path
from flserver.audit import moving
from flserver.settings.places import Address
verify = moving._problems
moving._problems = lambda place: os.kill(os.getpid(), signal.SIGKILL) if isinstance(place, Address) else verify(place)
moving.copy_to(Path({str(record)!r}), Address({str(address)!r}))
"""
    done = subprocess.run([sys.executable, "-c", killed], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert postgres.ask("SELECT COUNT(*) > 100 FROM events") == [(True,)]
    eventually(lambda: at(address).holder() is None)
    said = f"holds a copy of {record} that was cut off before it was verified"
    models = str(record.with_name("models"))
    for command in (
        ["check", "--metrics-port", "0", "--server-port", "0", "--checkpoint-dir", models],
        ["db", "upgrade"],
        ["purge", "--what", "payloads", "--before", "2999-01-01", "--yes"],
    ):
        code, _, err = flserver("--db", str(address), *command)
        assert (code, said in err) == (2, True), err
    with pytest.raises(UsageError, match=said):
        copy_to(record, address)
    with pytest.raises(UsageError, match=said):
        copy_to(address, record.with_name("back.sqlite"))
    postgres.ask("DELETE FROM flserver.unverified")
    assert flserver("--db", str(address), "db", "upgrade")[0] == 0


def test_there_has_to_be_a_record_of_this_version(record: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no database"):
        copy_to(tmp_path / "none.sqlite", tmp_path / "to.sqlite")
    downgrade(record, "0014")
    with pytest.raises(UsageError, match="db upgrade"):
        copy_to(record, tmp_path / "to.sqlite")
    assert not (tmp_path / "to.sqlite").exists()
