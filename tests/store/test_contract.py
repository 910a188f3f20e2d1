"""What a record answers is the same in a file and on PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flserver.record.questions import questions
from flserver.settings.places import Address, Place
from flserver.store.database import at
from flserver.store.schema import ensure_head
from flserver.store.transfer import copy_rows
from tests import golden
from tests.postgres_server import PostgresDatabase, PostgresServer
from tests.store import story
from tests.store.contract import ReadingContract, typed


class TestSQLite(ReadingContract):
    @pytest.fixture
    def place(self, database: Path) -> Place:
        return database

    @pytest.fixture
    def recorded(self, recorded: Path) -> Place:
        return recorded


@pytest.mark.postgres
class TestPostgres(ReadingContract):
    @pytest.fixture
    def place(self, postgres: PostgresDatabase) -> Place:
        return Address(postgres.url())

    @pytest.fixture
    def recorded(self, postgres_server: PostgresServer) -> Iterator[Place]:
        database = postgres_server.create(postgres_server.template("flserver_recorded", _record))
        yield Address(database.url())
        database.drop()


def _record(database: PostgresDatabase) -> None:
    place = Address(database.url())
    ensure_head(place)
    story.write(place, story.whole_run())
    story.write(place, story.left_over(), run_id=story.LEFT, process_id=2)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden record at the newest revision."""
    path = tmp_path_factory.mktemp("golden") / "runs.sqlite"
    golden.old_record(path)
    ensure_head(path)
    return path


@pytest.mark.postgres
def test_every_question_has_the_same_answer(postgres: PostgresDatabase, old: Path) -> None:
    address = Address(postgres.url())
    with at(old).reading_engine().connect() as source, at(address).writing_engine().begin() as target:
        copy_rows(source, target)
    assert len(questions()) > 30
    for name in questions():
        here, there = golden.answers_of(old, name), golden.answers_of(address, name)
        assert there["columns"] == here["columns"], name
        assert rounded(typed(there["rows"])) == rounded(typed(here["rows"])), name


def rounded(rows: list[list[tuple[str, Any]]]) -> list[list[tuple[str, Any]]]:
    """Sums of floats differ in the last digit by the order in which they were added up."""
    return [[(kind, float(f"{value:.13g}") if kind == "float" else value) for kind, value in row] for row in rows]
