"""A record on PostgreSQL is written as a file is: the same rows, behind one chain, whoever writes it."""

from pathlib import Path

import pytest

from flserver.settings.places import Address
from flserver.store import tables as t
from flserver.store.database import at
from flserver.store.reader import Reader
from tests.postgres_server import PostgresDatabase
from tests.store import story

pytestmark = pytest.mark.postgres


@pytest.fixture
def address(postgres: PostgresDatabase) -> Address:
    return Address(postgres.url())


def test_the_same_story_is_the_same_rows(address: Address, database: Path) -> None:
    first, second = story.whole_run(), story.left_over()
    for place in (address, database):
        story.write(place, first)
        story.write(place, second, run_id=story.LEFT, process_id=2)
    there, here = Reader(address), Reader(database)
    assert there.verify_chain().problems == ()
    assert there.head() is not None
    for table in t.DERIVED:
        order = ", ".join(f'"{column.name}"' for column in table.primary_key.columns)
        query = f"SELECT * FROM {table.name} ORDER BY {order}"
        assert there.query(query) == here.query(query), table.name
    assert at(address).bytes() > 1e6
