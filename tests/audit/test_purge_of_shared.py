"""A record on PostgreSQL is purged while no server uses the database."""

import pytest

from flserver.settings.places import Address
from flserver.store.database import at
from flserver.store.reader import Reader
from tests.audit.test_purge import verified
from tests.cli.conftest import Run
from tests.cli.conftest import flserver as flserver
from tests.postgres_server import PostgresDatabase
from tests.store import story

pytestmark = pytest.mark.postgres


def test_nothing_is_purged_while_a_server_uses_the_database(flserver: Run, postgres: PostgresDatabase) -> None:
    address = Address(postgres.url())
    story.write(address, story.sound_run())
    story.write(address, story.left_over(), run_id=story.LEFT, process_id=2)
    gone = ("purge", "--what", "payloads", "--client", "1", "--yes", "--db", str(address))
    with at(address).lock(alone=False):
        code, _, complaint = flserver(*gone)
        assert (code, "is in use: flserver server" in complaint) == (2, True)
    assert Reader(address).query("SELECT COUNT(*) FROM events WHERE payload IS NULL")[1] == [(0,)]
    code, said, complaint = flserver(*gone)
    assert (code, complaint) == (0, "")
    assert said.splitlines()[-1] == "purged"
    found = verified(address)
    assert found["verdict"] == "holds"
    assert found["purged"] > 5
    _, acts = Reader(address).query("SELECT kind FROM operator_events ORDER BY event_seq")
    assert acts[-1] == ("purge",)
    story.write(address, story.started("20260301-090000-abcdef", process_id=3), run_id="20260301-090000-abcdef")
    assert verified(address)["verdict"] == "holds"
