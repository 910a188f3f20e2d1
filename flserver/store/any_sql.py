"""For whoever asks by SQL of their own: what it may weigh, which run it means, and what its errors say."""

import sqlite3
from contextlib import closing
from typing import Any

from flserver.errors import UsageError
from flserver.settings.places import Place
from flserver.store.reader import Reader
from flserver.store.schema import check
from flserver.store.sqlite import as_text

MOST_BYTES = 10_000_000
"""Of one value, and of what SQLite makes a row of on the way."""
MOST_OF_AN_ANSWER = 32_000_000  # characters or bytes
MOST_MEMORY = 256 << 20
"""Bytes that SQLite may have at once, in the whole process."""
MEANT = "meant_run"  # the SQL function that says which run is meant, by its id


class Asking:
    """What one connection is asked: it knows the runs of the database at ``place``, and what an answer may weigh."""

    def __init__(self, place: Place, connection: sqlite3.Connection) -> None:
        self._place = place
        self._meant: dict[str, str] = {}
        self._left = MOST_OF_AN_ANSWER
        self.why: str | None = None
        """What was wrong, in words that SQLite does not pass on."""
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_BYTES)
        connection.create_function(MEANT, 1, self._run_id, deterministic=True)
        connection.row_factory = self._row
        connection.text_factory = as_text

    def _run_id(self, ref: object) -> str:
        ref = "" if ref is None else str(ref)
        if ref not in self._meant:
            try:
                self._meant[ref] = Reader(self._place).run(ref or None)["run_id"]
            except UsageError as error:
                self.why = str(error)
                raise
        return self._meant[ref]

    def _row(self, cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> sqlite3.Row:
        self._left -= sum(len(value) if isinstance(value, str | bytes) else 8 for value in row)
        if self._left < 0:
            raise sqlite3.OperationalError(f"the answer is larger than {MOST_OF_AN_ANSWER / 1e6:.0f} MB: ask for less")
        return sqlite3.Row(cursor, row)


def limit_memory() -> None:
    """From now on SQLite has so much memory in this process, and no more; what would take more is a MemoryError."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"PRAGMA hard_heap_limit = {MOST_MEMORY}")


def explained(place: Place, said: str) -> str:
    """SQLite's words ``said`` of a query of the database at ``place``; where they miss what its older version has not,
    also what to do. Raises as :func:`check`."""
    if not said.startswith(("no such column", "no such table")) or check(place).at_head:
        return said
    return (
        f"{said}: {place} is of an older version, and has not all that is asked for: flserver --db {place} db upgrade, "
        "which keeps a copy"
    )
