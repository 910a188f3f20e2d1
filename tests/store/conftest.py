import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from flserver import faults
from flserver.settings.places import Address
from flserver.store.schema import ensure_head
from tests.nobody import public as public
from tests.postgres_server import PostgresDatabase
from tests.store import story

Ask = Callable[..., list[tuple[object, ...]]]


@pytest.fixture(scope="session")
def _at_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nobody writes there: all migrations take longer than most tests of what they make."""
    path = tmp_path_factory.mktemp("at-head") / "runs.sqlite"
    ensure_head(path)
    return path


@pytest.fixture(scope="session")
def _recorded(_at_head: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(shutil.copy(_at_head, tmp_path_factory.mktemp("recorded") / "runs.sqlite"))
    story.write(path, story.whole_run())
    story.write(path, story.left_over(), run_id=story.LEFT, process_id=2)
    return path


@pytest.fixture
def database(_at_head: Path, tmp_path: Path) -> Path:
    """A new database at head."""
    return Path(shutil.copy(_at_head, tmp_path / "runs.sqlite"))


@pytest.fixture
def recorded(_recorded: Path, database: Path) -> Path:
    """A database with a whole run and one that a killed server left over."""
    return Path(shutil.copy(_recorded, database))


@pytest.fixture
def ask(database: Path) -> Ask:
    """Plain SQL, each on a connection of its own: even an idle one keeps the file in WAL mode."""

    def run(sql: str, *parameters: object) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(database)) as connection:
            return connection.execute(sql, parameters).fetchall()

    return run


@pytest.fixture
def address(postgres: PostgresDatabase) -> Address:
    """A database of PostgreSQL's at head."""
    return Address(postgres.url())


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is entered is left after the test, and no step leads to a fault any more."""
    with ExitStack() as stack:
        yield stack
        faults.install(None)
