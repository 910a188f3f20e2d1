"""Another program's lock on the database is waited for, with a warning, and not for ever."""

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from flserver.errors import StoreError
from flserver.store import busy
from flserver.store.derive.statements import Rows
from flserver.store.schema import check, ensure_head
from flserver.store.writer import Writer
from tests import facts
from tests.nobody import as_nobody
from tests.old_database import old_database
from tests.patience import PATIENCE, eventually
from tests.store import story
from tests.store.conftest import Ask

FIRST = story.whole_run()[0]


@contextmanager
def transaction(path: Path, *statements: str) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        for statement in statements:
            other.execute(statement)
        yield other


def writer_of(database: Path, patience: float = PATIENCE) -> Writer:
    return Writer(database, run_id=story.RUN, process_id=1, patience=patience)


def test_a_locked_database_is_written_when_it_is_free_and_nobody_is_told_before(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer, durable = writer_of(database), Event()
    writer.start(**story.QUIET)

    def flush() -> None:
        writer.flush()
        durable.set()

    thread = Thread(target=flush)
    with transaction(database, "BEGIN IMMEDIATE"):
        writer.emit(FIRST)
        thread.start()
        eventually(lambda: "is locked by another program" in caplog.text)
        assert not durable.is_set()
        assert writer.alive
    assert durable.wait(PATIENCE)
    thread.join()
    writer.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.WARNING]
    assert caplog.messages[1].endswith("runs.sqlite is free again")


def test_a_lock_that_stays_ends_the_writer(database: Path) -> None:
    writer = writer_of(database, patience=0.0)
    writer.start(**story.QUIET)
    with transaction(database, "BEGIN IMMEDIATE"):
        writer.emit(FIRST)
        with pytest.raises(StoreError, match="database is locked"):
            writer.flush()
    assert not writer.alive
    writer.close()


def test_a_reader_at_the_start_is_waited_for_too(database: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It keeps a rollback journal from becoming a write-ahead log."""
    writer = writer_of(database)
    thread = Thread(target=writer.start, kwargs=dict(story.QUIET))
    with transaction(database, "BEGIN", "SELECT * FROM events") as reader:
        thread.start()
        eventually(lambda: "is locked by another program" in caplog.text)
        reader.execute("COMMIT")
    thread.join()
    writer.emit(FIRST)
    writer.flush()
    writer.close()


def test_so_is_one_in_the_way_of_an_upgrade(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "old.sqlite"
    old_database(path)
    thread = Thread(target=ensure_head, args=(path,), kwargs={"patience": PATIENCE})
    with transaction(path, "BEGIN", "SELECT * FROM alembic_version"):
        thread.start()
        eventually(lambda: "is locked by another program" in caplog.text)
    thread.join()
    assert check(path).at_head


def test_only_a_lock_is_waited_for(tmp_path: Path) -> None:
    def broken() -> None:
        raise sqlite3.DatabaseError("malformed")

    with pytest.raises(sqlite3.DatabaseError, match="malformed"):
        busy.when_free(tmp_path, PATIENCE, Event().wait, broken)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_what_sqlite_makes_beside_a_database_is_its_groups_too(public: Path) -> None:
    """Only for root does SQLite see to that itself."""
    public.chmod(0o777)
    path = public / "runs.sqlite"
    ensure_head(path, group=100)
    os.chown(path, 65534, -1)
    said = as_nobody(
        """
writer = Writer(path, run_id="r", process_id=1)
writer.start(on_committed=lambda events: None, on_commit_seconds=lambda seconds: None, on_failure=print)
for file in sorted(path.parent.iterdir()):
    print(file.name, file.stat().st_gid, oct(file.stat().st_mode & 0o777))
writer.close()
""",
        path,
        imports="from flserver.store.writer import Writer",
        groups=[100],
    )
    assert said.splitlines() == [f"runs.sqlite{end} 100 0o640" for end in ("", "-shm", "-wal")]


def test_what_was_rolled_back_is_derived_anew(database: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the attempt that is known from the first try would have what it has on the second one already."""
    locked, write = sqlite3.OperationalError("database is locked"), Rows.write
    locked.sqlite_errorcode = sqlite3.SQLITE_BUSY
    errors = [locked]

    def first_locked(rows: Rows) -> None:
        if errors:
            raise errors.pop()
        write(rows)

    monkeypatch.setattr(Rows, "write", first_locked)
    answered = facts.answered("1", 1, 1.0)
    round_0 = [facts.attempt(0, 1, ()), facts.committed(0)]
    round_1 = [facts.attempt(1, 1, ("1",)), *story.uploaded(1, "1", (1, 1)), facts.committed(1, 1, [answered])]
    story.write(database, [*story.started(), *story.registered("1", 1), *round_0, *round_1])
    assert not errors
    assert ask("SELECT round, status FROM v1_rounds ORDER BY round") == [(0, "committed"), (1, "committed")]
    assert ask("SELECT decision, weight FROM v1_updates") == [("accepted", 1.0)]
