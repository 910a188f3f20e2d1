"""What is SQLite's alone: whose file it is, who has it, what a reader may do."""

import sqlite3
from pathlib import Path

import pytest

from flserver.errors import UsageError
from flserver.store.sqlite import APPLICATION_ID, DatabaseLock, _authorize
from tests.store.conftest import Ask


def test_one_server_at_a_time(database: Path, tmp_path: Path) -> None:
    alias = tmp_path / "alias.sqlite"
    alias.symlink_to(database)
    with DatabaseLock(database):
        for name in (database, alias):
            with pytest.raises(UsageError, match="another flserver has"), DatabaseLock(name):
                pass
    with DatabaseLock(database):
        pass


def test_extensions_are_refused_by_the_authorizer_too() -> None:
    # The driver refuses them by itself, as long as nobody enables them.
    assert _authorize(sqlite3.SQLITE_FUNCTION, None, "load_extension", None, None) == sqlite3.SQLITE_DENY
    assert _authorize(sqlite3.SQLITE_FUNCTION, None, "count", None, None) == sqlite3.SQLITE_OK


def test_the_file_says_whose_it_is(ask: Ask) -> None:
    assert ask("PRAGMA application_id") == [(APPLICATION_ID,)]
    assert APPLICATION_ID.to_bytes(4, "big") == b"FLsv"
