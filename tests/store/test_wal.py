"""What of a write-ahead log can be read, and how a failure leaves one."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from flserver.store.sqlite import writing_engine
from flserver.store.wal import Frames, fold_left_over, leave_as_it_is, read_frames


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A WAL with three transactions of one frame each, as a process that was killed leaves it; its database's path."""
    path, killed = tmp_path / "live.sqlite", tmp_path / "killed.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (n INTEGER)")
        connection.execute("PRAGMA journal_mode = WAL")
        for number in range(3):
            connection.execute("INSERT INTO t VALUES (?)", (number,))
        killed.write_bytes(path.read_bytes())
        wal_of(killed).write_bytes(wal_of(path).read_bytes())
    return killed


def wal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM t").fetchone()[0])


def test_a_sound_log_an_empty_one_and_none(log: Path) -> None:
    assert read_frames(log) == Frames(sound=3, lost=0, committed=0)
    wal_of(log).write_bytes(b"")
    assert read_frames(log) == Frames(sound=0, lost=0, committed=0)
    wal_of(log).unlink()
    assert read_frames(log) == Frames(sound=0, lost=0, committed=0)


@pytest.mark.parametrize(("at", "sound", "lost"), [(10, 0, 3), (34, 0, 3), (32 + 4120 + 1000, 1, 2), (-1, 2, 1)])
def test_from_a_changed_bit_on_nothing_is_read_as_sqlite_has_it(log: Path, at: int, sound: int, lost: int) -> None:
    changed = bytearray(wal_of(log).read_bytes())
    changed[at] ^= 1
    wal_of(log).write_bytes(changed)
    assert read_frames(log) == Frames(sound=sound, lost=lost, committed=lost)
    assert rows(log) == sound


def test_a_frame_that_was_cut_is_lost(log: Path) -> None:
    wal_of(log).write_bytes(wal_of(log).read_bytes()[:-1])
    assert read_frames(log) == Frames(sound=2, lost=1, committed=1)
    assert rows(log) == 2


def test_frames_of_an_earlier_log_are_none(log: Path) -> None:
    content = bytearray(wal_of(log).read_bytes())
    content[32 + 4120 + 8] ^= 1  # the second frame's salt
    wal_of(log).write_bytes(content)
    assert read_frames(log) == Frames(sound=1, lost=0, committed=0)


def test_a_failure_leaves_the_log_and_the_next_one_folds_it(log: Path) -> None:
    before, database = wal_of(log).read_bytes(), log.read_bytes()
    with writing_engine(log).connect() as connection:
        connection.exec_driver_sql("SELECT COUNT(*) FROM t")
        leave_as_it_is(connection, log)
    assert wal_of(log).read_bytes() == before
    assert log.read_bytes() == database
    with writing_engine(log).connect() as connection:
        fold_left_over(connection, log)
        assert wal_of(log).stat().st_size == 0
        assert log.read_bytes() != database
    assert rows(log) == 3
