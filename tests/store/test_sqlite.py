"""What is SQLite's alone: whose file it is, what a reader may do."""

import sqlite3

from flserver.store.sqlite import APPLICATION_ID, _authorize
from tests.store.conftest import Ask


def test_extensions_are_refused_by_the_authorizer_too() -> None:
    # The driver refuses them by itself, as long as nobody enables them.
    assert _authorize(sqlite3.SQLITE_FUNCTION, None, "load_extension", None, None) == sqlite3.SQLITE_DENY
    assert _authorize(sqlite3.SQLITE_FUNCTION, None, "count", None, None) == sqlite3.SQLITE_OK


def test_the_file_says_whose_it_is(ask: Ask) -> None:
    assert ask("PRAGMA application_id") == [(APPLICATION_ID,)]
    assert APPLICATION_ID.to_bytes(4, "big") == b"FLsv"
