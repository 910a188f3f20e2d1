"""The tree and the signed heads are held against the events: what was changed in them is found, and named."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from flserver.audit.heads import check
from flserver.store.schema import ensure_head
from flserver.store.tree_reader import TreeReader
from tests.signed_record import LOG, signed_record
from tests.store import story

OTHER = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return signed_record(tmp_path_factory.mktemp("signed")).read_bytes()


@pytest.fixture
def db(tmp_path: Path, sound: bytes) -> Path:
    path = tmp_path / "runs.sqlite"
    path.write_bytes(sound)
    return path


def change(db: Path, *statements: str) -> None:
    with closing(sqlite3.connect(db)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_a_sound_record_holds(db: Path) -> None:
    (line,) = check(TreeReader(db))
    ((events, heads),) = TreeReader(db).query("SELECT MAX(seq), (SELECT COUNT(*) FROM v1_heads) FROM v1_events")[1]
    assert heads > 3
    assert line[0], line
    assert line[1].startswith(f"1 nodes of the tree over {events} events, {heads} signed heads: root sha256:")


def test_a_record_without_heads_or_events_holds(tmp_path: Path) -> None:
    ensure_head(tmp_path / "runs.sqlite")
    assert [good for good, _ in check(TreeReader(tmp_path / "runs.sqlite"))] == [True]
    story.write(tmp_path / "runs.sqlite", story.started())
    assert [good for good, _ in check(TreeReader(tmp_path / "runs.sqlite"))] == [True]


SECOND = "event_seq = (SELECT event_seq FROM heads ORDER BY size LIMIT 1 OFFSET 1)"


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (f"UPDATE tree_nodes SET hash = '{OTHER}'", f"tree_nodes level 8 place 0: is {OTHER}, and sha256:"),
        ("UPDATE tree_nodes SET place = 1", "tree_nodes level 8 place 0: is missing"),
        ("DELETE FROM tree_nodes", "tree_nodes level 8 place 0: is missing"),
        (f"INSERT INTO tree_nodes VALUES (8, 7, '{OTHER}')", "tree_nodes level 8 place 7: there are not so many"),
        (f"INSERT INTO tree_nodes VALUES (4, 0, '{OTHER}')", "tree_nodes level 4 place 0: there are not so many"),
        (f"UPDATE heads SET root = '{OTHER}' WHERE {SECOND}", f"its root is {OTHER}, and sha256:"),
        (f"UPDATE heads SET size = size + 1 WHERE {SECOND}", "what was signed is a head of "),
        (f"UPDATE heads SET size = 100000 WHERE {SECOND}", "head of 100000 events: there are "),
        (f"UPDATE heads SET size = -1 WHERE {SECOND}", "head of -1 events"),
        (f"UPDATE heads SET note = 'x' WHERE {SECOND}", "what was signed cannot be read"),
        (f"UPDATE events SET digest = '{OTHER}' WHERE seq = 2", "by the events"),
        ("UPDATE events SET digest = 'sha256:x' WHERE seq = 2", "one has no digest"),
        ("DELETE FROM events WHERE seq = 2", "by the events"),
    ],
)
def test_what_was_changed_is_named(db: Path, statement: str, said: str) -> None:
    change(db, statement)
    lines = list(check(TreeReader(db)))
    assert not any(good for good, _ in lines)
    assert said in " ".join(line for _, line in lines)


def test_a_past_that_was_rewritten_whole_still_differs_from_what_was_signed(db: Path) -> None:
    """Who can write everything but has no key: chain and tree made anew, and the heads left as they were signed."""
    heads = TreeReader(db).heads()
    last = heads[-1]["size"]
    change(db, f"UPDATE events SET digest = '{OTHER}' WHERE seq = {last}")
    assert any(f"head of {last} events" in line for good, line in check(TreeReader(db)) if not good)
    assert {row["key"] for row in heads} == {str(LOG.public)}
