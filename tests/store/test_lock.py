"""Who has the database, and what of that stays on the disk."""

import fcntl
from pathlib import Path

import pytest

from flserver.errors import UsageError
from flserver.store.lock import DatabaseLock


@pytest.fixture
def lock(database: Path) -> Path:
    """Where the lock of the database lies."""
    return database.with_name("runs.sqlite.lock")


def test_one_server_at_a_time(database: Path, tmp_path: Path) -> None:
    alias = tmp_path / "alias.sqlite"
    alias.symlink_to(database)
    with DatabaseLock(database):
        for name in (database, alias):
            with pytest.raises(UsageError, match="another flserver has"), DatabaseLock(name):
                pass
    with DatabaseLock(database):
        pass


def test_a_lock_of_which_nothing_came_leaves_no_file(database: Path, lock: Path) -> None:
    with DatabaseLock(database, stays=False):
        assert lock.exists()
        with pytest.raises(UsageError, match="another flserver has"), DatabaseLock(database, stays=False):
            pass
        assert lock.exists(), "it is not the other one's to take away"
    assert not lock.exists()
    with DatabaseLock(database, stays=False) as taken:
        taken.stays = True
    assert lock.exists()


def test_a_file_that_was_there_before_stays(database: Path, lock: Path) -> None:
    with DatabaseLock(database):
        pass
    with DatabaseLock(database, stays=False):
        pass
    assert lock.exists()


def test_a_file_that_is_taken_away_while_it_is_being_locked_is_made_anew(
    database: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        real(descriptor, operation)
        calls.append(descriptor)
        if len(calls) == 1:
            lock.unlink()  # as the one does that had it until now

    monkeypatch.setattr(fcntl, "flock", flock)
    with DatabaseLock(database):
        with pytest.raises(UsageError, match="another flserver has"), DatabaseLock(database):
            pass
    assert len(calls) == 2
