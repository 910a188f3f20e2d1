"""A purge of a record on PostgreSQL takes what it takes from a file, and the record holds afterwards."""

from pathlib import Path

import pytest

from flserver.audit.moving import copy_to
from flserver.settings.places import Address, Place
from flserver.store import tables as t
from flserver.store.database import at
from flserver.store.purge import RESTING
from flserver.store.reader import Reader
from tests import golden
from tests.audit.conftest import verified
from tests.cli.conftest import Run
from tests.postgres_server import PostgresDatabase
from tests.store import story
from tests.store.contract import typed

pytestmark = pytest.mark.postgres


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server is to come back for a run that is left over."""
    monkeypatch.setattr("flserver.store.postgres.lock.LEFT_AFTER", 0)


def left(place: Place) -> dict[str, object]:
    """What is in the tables that a purge touches, and which payloads are there."""
    reader, found = Reader(place), {}
    for table in t.DERIVED:
        if table.name in RESTING:
            keys = ", ".join(table.primary_key.columns.keys())
            found[table.name] = typed(reader.query(f"SELECT * FROM {table.name} ORDER BY {keys}")[1])
    found["events"] = typed(reader.query("SELECT seq, type, payload IS NULL FROM events ORDER BY seq")[1])
    return found


def test_both_are_left_with_the_same(flserver: Run, tmp_path: Path, postgres: PostgresDatabase) -> None:
    path, address = tmp_path / "runs.sqlite", Address(postgres.url())
    golden.old_record(path)
    assert flserver("--db", str(path), "db", "upgrade")[0] == 0
    copy_to(path, address)
    before = left(address)
    for place in (path, address):
        code, out, err = flserver("--db", str(place), "purge", "--what", "payloads", "--client", "2", "--yes")
        assert code == 0, (out, err)
        code, out, err = flserver("--db", str(place), "verify", "--without-checkpoints")
        assert "does not hold" not in out + err
    assert left(path) == left(address) != before
    assert postgres.ask("SELECT h.seq = MAX(e.seq) FROM flserver.head AS h, events AS e GROUP BY h.seq") == [(True,)]


def test_nothing_is_purged_while_a_server_uses_the_database(flserver: Run, postgres: PostgresDatabase) -> None:
    address = Address(postgres.url())
    story.write(address, story.sound_run())
    story.write(address, story.left_over(), run_id=story.LEFT, process_id=2)
    gone = ("purge", "--what", "payloads", "--client", "1", "--yes", "--db", str(address))
    with at(address).lock(alone=False):
        code, _, complaint = flserver(*gone)
        assert (code, "is in use: flserver server" in complaint) == (2, True)
    assert Reader(address).query("SELECT COUNT(*) FROM events WHERE payload IS NULL")[1] == [(0,)]
    with postgres.connect(application_name=f"flserver run {story.LEFT} on here, process 7"):  # it has lost its session
        code, _, complaint = flserver(*gone)
        assert (code, "is about to go on with it: stop it" in complaint) == (2, True)
    assert Reader(address).query("SELECT COUNT(*) FROM events WHERE payload IS NULL")[1] == [(0,)]
    code, said, complaint = flserver(*gone)
    assert (code, complaint) == (0, "")
    epoch = "SELECT epoch FROM flserver.writers WHERE run_id = %s"
    assert postgres.ask(epoch, story.LEFT) == [(1,)], "a server that comes back hears that its run was ended"
    assert said.splitlines()[-1] == "purged"
    found = verified(address)
    assert found["verdict"] == "holds"
    assert found["purged"] > 5
    _, acts = Reader(address).query("SELECT kind FROM operator_events ORDER BY event_seq")
    assert acts[-1] == ("purge",)
    story.write(address, story.started("20260301-090000-abcdef", process_id=3), run_id="20260301-090000-abcdef")
    assert verified(address)["verdict"] == "holds"
