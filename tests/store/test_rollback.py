"""What a crash left half done outside of WAL mode: a start undoes it, and who only reads says so."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from flserver.errors import UsageError
from flserver.store.busy import wait_until_readable
from flserver.store.rollback import roll_back
from flserver.store.schema import check, ensure_head
from flserver.store.sqlite import open_for_reading


def in_the_middle(path: Path) -> sqlite3.Connection:
    """A transaction that has changed the file at ``path`` and is not over."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("CREATE TABLE half (done)")
    connection.executemany("INSERT INTO half VALUES (?)", [(bytes(4000),)] * 20)
    return connection


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """A database as it is on the disk in the middle of a transaction of whoever had it."""
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    after = tmp_path / "after"
    after.mkdir()
    with closing(in_the_middle(path)):
        for name in ("runs.sqlite", "runs.sqlite-journal"):
            shutil.copyfile(tmp_path / name, after / name)
    return after / "runs.sqlite"


def test_who_only_reads_says_what_undoes_it(crashed: Path) -> None:
    with pytest.raises(UsageError, match="a start or db upgrade undoes it"):
        open_for_reading(crashed)
    with pytest.raises(UsageError, match="a start or db upgrade undoes it"):
        check(crashed)
    assert crashed.with_name("runs.sqlite-journal").exists()


@pytest.mark.parametrize("start", [lambda path: wait_until_readable(path, 0, lambda _: None), ensure_head])
def test_a_start_and_an_upgrade_undo_it(crashed: Path, start: object) -> None:
    assert callable(start)
    start(crashed)
    assert check(crashed).at_head
    with closing(open_for_reading(crashed)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'half'").fetchone() == (0,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert not crashed.with_name("runs.sqlite-journal").exists()


def test_a_transaction_that_runs_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    with closing(in_the_middle(path)) as connection:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            roll_back(path)
        connection.execute("COMMIT")
    with closing(open_for_reading(path)) as reading:
        assert reading.execute("SELECT COUNT(*) FROM half").fetchone() == (20,)


def test_where_there_is_nothing_nothing_is_made(tmp_path: Path) -> None:
    roll_back(tmp_path / "runs.sqlite")
    assert list(tmp_path.iterdir()) == []
