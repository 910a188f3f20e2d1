"""What the cookbook has once answered of an old database it answers at every revision, and views keep their columns."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flserver.record.questions import questions
from flserver.store.reader import Reader
from flserver.store.schema import check, downgrade, ensure_head, migrations_directory
from tests import golden

REVISIONS = sorted(file.name[:4] for file in (migrations_directory() / "versions").glob("[0-9]*.py"))
MADE_AT = "0013"


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The old database at the newest revision."""
    path = tmp_path_factory.mktemp("golden") / "runs.sqlite"
    golden.old_record(path)
    assert check(path).current == MADE_AT
    ensure_head(path)
    return path


def changed(path: Path) -> Mapping[str, Any]:
    """The answers that are no more what was promised. A question may have gained columns."""
    found = {}
    for name, promised in golden.promised_answers().items():
        now = golden.answers_of(path, name)
        width = len(promised["columns"])
        cut = {"columns": now["columns"][:width], "rows": [row[:width] for row in now["rows"]]}
        if cut != promised:
            found[name] = cut
    return found


def test_every_question_has_its_golden_answer() -> None:
    assert set(golden.promised_answers()) == set(questions()), golden.HOW
    silent = {name for name, found in golden.promised_answers().items() if not found["rows"]}
    assert silent == {"which_node_served"}, "each has something to tell but of nodes, which are younger than the record"


def test_the_old_database_has_its_answers_at_the_newest_revision(upgraded: Path) -> None:
    assert changed(upgraded) == {}
    assert Reader(upgraded).verify_chain().problems == ()


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_it_has_them_after_an_upgrade_from_each_earlier_revision(tmp_path: Path, revision: str) -> None:
    path = tmp_path / "runs.sqlite"
    golden.old_record(path)
    ensure_head(path)
    downgrade(path, revision)
    assert check(path).current == revision
    ensure_head(path)
    assert check(path).at_head
    assert changed(path) == {}


def test_no_view_has_lost_renamed_moved_or_retyped_a_column(upgraded: Path) -> None:
    assert golden.broken(golden.promised_columns(), golden.columns_of(upgraded)) == []


def test_what_a_view_has_gained_is_promised_from_now_on(upgraded: Path) -> None:
    assert golden.columns_of(upgraded) == golden.promised_columns(), golden.HOW


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({"v1_a": ["x TEXT", "y REAL", "z TEXT"]}, []),
        ({"v1_a": ["x TEXT", "y REAL"], "v1_b": ["w"]}, []),
        ({"v1_a": ["x TEXT"]}, ["v1_a: its column 2 was promised as 'y REAL', and is None"]),
        ({"v1_a": ["x TEXT", "y TEXT"]}, ["v1_a: its column 2 was promised as 'y REAL', and is 'y TEXT'"]),
        ({"v1_a": ["x TEXT", "why REAL"]}, ["v1_a: its column 2 was promised as 'y REAL', and is 'why REAL'"]),
        (
            {},
            [f"v1_a: its column {n} was promised as {was!r}, and is None" for n, was in ((1, "x TEXT"), (2, "y REAL"))],
        ),
    ],
)
def test_what_is_not_as_promised_is_said(there: dict[str, list[str]], said: list[str]) -> None:
    assert golden.broken({"v1_a": ["x TEXT", "y REAL"]}, there) == said


def test_text_of_an_older_record_that_not_every_database_holds_is_an_escape(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    golden.old_record(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE messages SET header = '<' || char(0) || '>' WHERE message_id = 1")
        before = connection.execute("SELECT message_id, header FROM messages WHERE message_id > 1").fetchall()
    ensure_head(path)
    with closing(sqlite3.connect(path)) as connection:
        after = connection.execute("SELECT message_id, header FROM messages ORDER BY message_id").fetchall()
    assert after == [(1, r"<\x00>"), *before]
