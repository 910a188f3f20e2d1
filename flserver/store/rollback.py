"""A transaction that a crash cut short is undone before anything is read."""

import sqlite3
from contextlib import closing
from pathlib import Path

from flserver.store.sqlite import LOCK_NOTICE


def roll_back(path: Path) -> None:
    """Undo what a crash left half done in the database at ``path``, if there is such a thing.

    Outside of WAL mode, in which the database is made and upgraded and which a clean stop leaves, that is a journal
    beside it. Whoever may write, of whatever program, undoes it with the first look; who only reads cannot look. A
    journal that is in use is left alone. Raises sqlite3.Error.
    """
    real = path.resolve()
    if real.is_file() and real.with_name(f"{real.name}-journal").exists():
        uri = f"{real.as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=LOCK_NOTICE)) as connection:
            connection.execute("PRAGMA schema_version")
