"""Who has the database, and what of that stays on the disk."""

import fcntl
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from flserver.errors import UsageError
from flserver.store.database import at
from flserver.store.lock import DatabaseLock, holder, read_note, unheld


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


def test_its_file_says_who_has_it_and_how_far_the_record_had_come(database: Path, lock: Path) -> None:
    assert holder(database) is None
    with DatabaseLock(database) as held:
        assert held.before is None
        held.note_head(7, "sha256:seven")
        told = holder(database)
        assert told is not None
        assert (told.pid, told.sequence, told.digest) == (os.getpid(), 7, "sha256:seven")
        with (
            pytest.raises(UsageError, match=f"open: process {os.getpid()}, since {told.since}"),
            DatabaseLock(database),
        ):
            pass
    assert holder(database) is None
    with DatabaseLock(database) as next_one:
        assert next_one.before == told
    assert read_note(database) == replace(told, since=read_note(database).since), "a head is kept"  # type: ignore[union-attr]
    database.unlink()
    with DatabaseLock(database) as anew:
        assert anew.before is None, "that was of another database"


@pytest.mark.parametrize("content", [b"", b"4711\n", b"[1]", b'{"pid": "x", "since": 1}', b'{"pid": 1}', b"\xff" * 300])
def test_a_file_that_says_nothing_is_no_note(database: Path, lock: Path, content: bytes) -> None:
    lock.write_bytes(content)
    assert read_note(database) is None
    with DatabaseLock(database) as held:
        assert held.before is None


def test_a_run_that_no_server_has_is_said_to_have_none(database: Path) -> None:
    assert unheld(database) == "copy"
    assert at(database).status_shown("running", "r") == "running (no server has it)"
    with DatabaseLock(database):
        assert at(database).status_shown("running", "r") == "running"
        assert at(database).status_shown("completed", "r") == "completed"
        assert unheld(database) is None
    assert unheld(database) == "left"
    assert at(database).status_shown("running", "r") == "running (no server has it)", "its file is there still"
    assert at(database).status_shown("completed", "r") == "completed"


def test_who_only_looks_keeps_no_server_away(database: Path) -> None:
    """A look has the lock together with others, for a moment."""
    with DatabaseLock(database):
        pass
    looking = os.open(f"{database}.lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    gone = threading.Timer(0.2, os.close, (looking,))
    gone.start()
    with DatabaseLock(database) as lock:
        gone.join()
    assert lock.before is not None
