"""A purge believes no record that does not hold: it would take an edit for what was so."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from flserver.errors import Damaged
from flserver.process.acts import record_act
from flserver.settings.operator import Operator
from flserver.store.lock import DatabaseLock, read_note
from flserver.store.schema import ensure_head
from tests import facts
from tests.cli.conftest import Run, refused
from tests.cli.conftest import flserver as flserver
from tests.store import story

ALL = ("--before", "2999-01-01")


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    resumed = facts.run_resumed(config={"retain_until": "2999-01-31"})
    story.write(path, [*story.sound_run(), resumed, facts.run_ended("completed")])
    return path


def edit(db: Path, statement: str) -> None:
    with closing(sqlite3.connect(db)) as connection, connection:
        assert connection.execute(statement).rowcount > 0


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE updates SET data_size = 999 WHERE update_id = 4", "updates update_id 4: data_size is 999"),
        (
            """UPDATE events SET payload = replace(payload, '"data_size":100', '"data_size":777')
            WHERE type = 'UpdateReceived'""",
            "the payload was changed",
        ),
        ("UPDATE runs SET config = json_set(config, '$.retain_until', '2000-01-01')", "config is "),
        ("UPDATE runs SET status = 'interrupted'", "status is interrupted, by the events completed"),
        ("DELETE FROM messages WHERE message_id = 3", "messages message_id 3: the row is missing"),
    ],
)
def test_a_record_with_an_edit_is_not_purged(flserver: Run, db: Path, statement: str, named: str) -> None:
    edit(db, statement)
    before = db.read_bytes()
    for what, yes in (("payloads", ()), ("checkpoints", ("--yes",)), ("payloads", ("--yes",))):
        refused(flserver("--db", db, "purge", "--what", what, *ALL, *yes), named)
    assert db.read_bytes() == before


def test_lost_commits_are_not_written_over(flserver: Run, db: Path, tmp_path: Path) -> None:
    older = Path(shutil.copy(db, tmp_path / "older"))
    with DatabaseLock(db) as lock:
        record_act(db, lock, "upgrade", {}, Operator(actor="a", reason=None))
    noted = read_note(db)
    shutil.copy(older, db)
    code, _, err = flserver("--db", db, "purge", "--what", "payloads", *ALL, "--yes")
    assert (code, "lacks commits" in err) == (1, True)
    assert flserver("--db", db, "db", "upgrade")[0] == 1
    with DatabaseLock(db) as lock, pytest.raises(Damaged, match="lacks commits"):
        record_act(db, lock, "upgrade", {}, Operator(actor="a", reason=None))
    left = read_note(db)
    assert noted is not None
    assert left is not None
    assert (left.sequence, left.digest) == (noted.sequence, noted.digest)
    assert db.read_bytes() == older.read_bytes()
