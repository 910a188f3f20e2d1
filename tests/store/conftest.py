import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from flserver.store.schema import ensure_head
from tests.nobody import public as public
from tests.store import story

Ask = Callable[..., list[tuple[object, ...]]]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A new database at head."""
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    return path


@pytest.fixture
def recorded(database: Path) -> Path:
    """A database with a whole run and one that a killed server left over."""
    story.write(database, story.whole_run())
    story.write(database, story.left_over(), run_id=story.LEFT, process_id=2)
    return database


@pytest.fixture
def ask(database: Path) -> Ask:
    """Plain SQL, each on a connection of its own: even an idle one keeps the file in WAL mode."""

    def run(sql: str, *parameters: object) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(database)) as connection:
            return connection.execute(sql, parameters).fetchall()

    return run
