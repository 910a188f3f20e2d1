"""Every question of the cookbook has the form of one, and what is wrong with asking it is said."""

import re
import sqlite3
from pathlib import Path

import pytest

from flserver.errors import UsageError
from flserver.record.questions import (
    AFTER_A_ROUND,
    EXAMPLES,
    Question,
    answer,
    directory,
    question,
    questions,
    read_question,
)
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from tests import facts
from tests.old_record import old_record
from tests.recorded_run import PLAIN, RUN, write_database
from tests.store import story

ROOT = Path(__file__).parents[2]
SQL = """-- Who was where?
-- Read it
-- so.
-- :round defaults to the last committed one.
-- No rows: nobody
-- was anywhere.
WITH a AS (SELECT ':text' AS t)  -- :comment
SELECT :round, t, :place, :run_id FROM a WHERE :round = 1
"""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    path = tmp_path_factory.mktemp("questions") / "runs.sqlite"
    write_database(path)
    return Reader(path)


def test_a_file_is_read_as_it_says_of_itself() -> None:
    read = read_question("where", SQL)
    assert (read.name, read.title, read.reading) == ("where", "Who was where?", "Read it so.")
    assert read.parameters == ("round", "place", "run_id")
    assert (read.defaults, read.nothing) == ({"round": "the last committed one"}, "nobody was anywhere.")
    assert read.code.startswith("WITH a AS")


def test_there_are_as_many_as_are_promised_and_those_of_the_first_version() -> None:
    assert len(questions()) >= 25
    first = "chain_head client_participation learning_curve time_per_phase traffic_per_round updates_behind_a_model"
    first += " weight_share what_was_refused who_knocked who_slowed_a_round whose_word"
    assert set(first.split()) <= set(questions())


@pytest.mark.parametrize("name", questions())
def test_each_begins_with_its_question_and_says_how_to_read_the_answer(name: str) -> None:
    asked = question(name)
    title, second, *_ = asked.sql.splitlines()
    assert re.fullmatch(r"-- [A-Z][^?]*\?", title)
    assert second.startswith("-- ")
    assert asked.nothing or name == "run_at_a_glance", "that one always has a row"
    assert set(asked.parameters) <= set(EXAMPLES)
    assert set(asked.defaults) <= set(asked.parameters)
    assert "--" not in re.sub(r"'[^']*'", "", asked.code)
    assert asked.code.startswith(("SELECT", "WITH"))
    assert asked.code.count(";") == 1
    assert asked.code.endswith(";\n")
    tables = set(re.findall(r"\b(?:FROM|JOIN) ([a-z]\w*)", asked.code))
    named = set(re.findall(r"(\w+)(?: \([a-z_, ]+\))? AS \(", asked.code))
    assert {table for table in tables if not table.startswith("v1_")} <= named
    assert [line for line in asked.sql.splitlines() if len(line) > 120] == []


@pytest.mark.parametrize("name", questions())
def test_each_has_its_answer_checked_against_a_run(name: str) -> None:
    sources = "".join(path.read_text() for path in (ROOT / "tests" / "e2e").glob("test_questions_*.py"))
    assert f"def test_{name}(" in sources


@pytest.mark.parametrize("name", questions())
def test_each_is_answered_by_sqlite_alone(name: str, reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    asked = question(name)
    connection.execute(asked.sql, dict.fromkeys(asked.parameters))
    connection.close()


def test_the_run_is_the_newest_or_the_one_that_is_named(reader: Reader) -> None:
    curve = question("learning_curve")
    for run, run_id in ((None, PLAIN), ("night", RUN), (RUN, RUN)):
        given = answer(reader, curve, run, {})
        assert given.run is not None
        assert given.run["run_id"] == run_id
    assert [row[0] for row in answer(reader, curve, None, {"run_id": "night"}).rows] == [0, 1, 2, 3]
    assert answer(reader, question("chain_head"), None, {}).run is None


@pytest.mark.parametrize(
    ("name", "run", "values", "said"),
    [
        ("learning_curve", "day", {}, "'day'"),
        ("sent_by_a_client", None, {}, "needs client_id, for example: ask sent_by_a_client --param client_id=3"),
        ("whose_update", None, {}, "needs digest, for example: ask whose_update --param digest=sha256:…"),
        ("who_took_part", None, {"rond": 1}, "no parameter 'rond'; did you mean 'round'?; it takes round"),
        ("who_knocked", None, {"mood": 1}, "no parameter 'mood'; it takes none but the run"),
        ("chain_head", "night", {}, "chain_head is asked of the whole database, not of a run"),
    ],
)
def test_what_cannot_be_asked(reader: Reader, name: str, run: str | None, values: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        answer(reader, question(name), run, values)


def test_without_runs_it_is_said(tmp_path: Path) -> None:
    ensure_head(tmp_path / "runs.sqlite")
    with pytest.raises(UsageError, match="there are no runs yet"):
        answer(Reader(tmp_path / "runs.sqlite"), question("learning_curve"), None, {})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("who_took_prt", "; did you mean 'who_took_part'? ("),
        ("setings", "; did you mean 'settings'? ("),
        ("who_was_slow", "; did you mean 'which_client_slows' or 'who_slowed_a_round'? ("),
        ("slowest-client", "; did you mean 'which_client_slows'? ("),
        ("worse", "; did you mean 'got_worse'? ("),
        ("transfer", "; did you mean 'which_client_slows'? ("),
        ("who_was_silnt", "; did you mean 'who_was_silent'? ("),
        ("zzz", "no question 'zzz' (ask without"),
    ],
)
def test_an_unknown_question_gets_those_that_are_like_it_or_about_the_same(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        question(name)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("who_took_part", {"round": 9}, f"run {RUN} has no round 9: it has 0 to 3"),
        ("sent_by_a_client", {"client_id": "0"}, f"no client '0' has registered in run {RUN}"),
        ("aborted_attempts", {}, "every attempt was committed."),
        ("whose_update", {"digest": "sha256:0"}, "no update and no message of one has this digest."),
        ("learning_curve", {}, ""),
    ],
)
def test_why_there_is_nothing_is_said(reader: Reader, name: str, values: dict[str, object], said: str) -> None:
    asked: Question = question(name)
    assert answer(reader, asked, "night" if "run_id" in asked.parameters else None, values).nothing == said


def test_before_a_round_has_begun_that_is_said_and_no_good_news(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    write_database(path)
    joining = [*story.started("joining", 3, "joining"), facts.attempt(0, process_id=3), facts.committed(0)]
    story.write(path, joining, run_id="joining", process_id=3)
    assert set(questions()) >= AFTER_A_ROUND
    for name in AFTER_A_ROUND:
        said = answer(Reader(path), question(name), "joining", {}).nothing
        assert said == "no round of run joining has begun: nobody was sent a model yet"


def test_a_digest_may_be_what_sha256sum_prints(reader: Reader) -> None:
    asked = question("where_a_model_comes_from")
    _, ((digest,),) = reader.query("SELECT model_digest FROM v1_rounds WHERE run_id = :run AND round = 3", {"run": RUN})
    bare = digest.removeprefix("sha256:")
    found = answer(reader, asked, None, {"digest": bare})
    assert found.rows
    assert found.rows == answer(reader, asked, None, {"digest": digest}).rows
    assert answer(reader, question("whose_update"), None, {"digest": bare}).nothing, "those are BLAKE3"


def test_in_a_wheel_they_lie_in_the_package() -> None:
    assert directory() == ROOT / "ops" / "sql"
    assert '"ops/sql" = "flserver/questions"' in (ROOT / "pyproject.toml").read_text()


def test_what_an_older_database_has_not_is_said_with_what_to_do(tmp_path: Path) -> None:
    old_record(tmp_path / "old.sqlite", "0013")
    reader = Reader(tmp_path / "old.sqlite")
    said = "no such column: update_cosine: .*old.sqlite is of an older version.*: flserver --db .*old.sqlite db upgrade"
    with pytest.raises(UsageError, match=said):
        answer(reader, question("unlike_the_others"), None, {})
    assert answer(reader, question("learning_curve"), None, {}).rows, "all else is answered"
    ensure_head(tmp_path / "old.sqlite")
    assert answer(reader, question("unlike_the_others"), None, {}).rows
