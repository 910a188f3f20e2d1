"""The command that asks the cookbook's questions."""

import csv
import json
from pathlib import Path

from flserver.record.questions import questions
from flserver.store.lock import DatabaseLock
from tests.cli.conftest import Run, lines, refused
from tests.recorded_run import PLAIN, RUN
from tests.store import story


def test_without_a_question_they_are_listed_with_their_parameters(flserver: Run) -> None:
    head, _, *rows = lines(flserver("ask"))
    assert head.split() == ["name", "question", "parameters"]
    assert [row.split()[0] for row in rows] == list(questions())
    listed = {row["name"]: row for row in json.loads(flserver("ask", "--format", "json")[1])}
    assert listed["who_took_part"]["question"] == "Who took part in a round, and with what weight?"
    assert (listed["who_took_part"]["parameters"], listed["whose_update"]["parameters"]) == ("[round]", "digest")
    refused(flserver("ask", "--run", "night"), "--run and --param go with one of them")


def test_the_answer_for_people_says_what_was_asked_of_which_run(flserver: Run, db: Path) -> None:
    title, empty, head, _, *rows = lines(flserver("--db", db, "ask", "learning_curve", "--run", "night"))
    assert title == f"How did the global model learn?  run {RUN}  name night  completed"
    assert (empty, head.split()[:2], [row.split()[0] for row in rows]) == ("", ["round", "loss"], ["0", "1", "2", "3"])
    assert lines(flserver("--db", db, "ask", "learning_curve"))[0].endswith(f"run {PLAIN}  name plain  interrupted"), (
        "the newest"
    )
    assert lines(flserver("--db", db, "ask", "chain_head"))[0] == "What is the head of the chain of events?"


def test_people_are_told_that_a_run_has_no_server_and_programs_what_is_on_record(flserver: Run, story_db: Path) -> None:
    story.write(story_db, story.left_over(), run_id=story.LEFT, process_id=2)
    head, _, _, _, row = lines(flserver("--db", story_db, "ask", "run_at_a_glance"))[:5]
    assert head.endswith("  name killed  running (no server has it)")
    assert "  killed  running (no server has it)  " in row
    table = flserver("--db", story_db, "ask", "runs_compared")[1]
    assert table.count("running (no server has it)") == 2, "in each row"
    (told,) = json.loads(flserver("--db", story_db, "ask", "run_at_a_glance", "--json")[1])
    assert told["status"] == "running"
    with DatabaseLock(story_db):
        head, _, _, _, row = lines(flserver("--db", story_db, "ask", "run_at_a_glance"))[:5]
        assert (head.endswith("  name killed  running"), "(" in row) == (True, False)


def test_the_answer_for_programs_is_its_rows(flserver: Run, db: Path) -> None:
    asked = ("--db", db, "ask", "learning_curve", "--run", "night", "--format")
    assert [row["accuracy"] for row in json.loads(flserver(*asked, "json")[1])] == [0.1, 0.8, 0.95, 0.9]
    assert [row["round"] for row in csv.DictReader(lines(flserver(*asked, "csv")))] == ["0", "1", "2", "3"]


def test_why_it_is_empty_is_said_to_people_only(flserver: Run, db: Path) -> None:
    asked = ("--db", db, "ask", "who_took_part", "--run", "night", "--param", "round=9")
    title, _, why = lines(flserver(*asked))
    assert title.startswith("Who took part in a round, and with what weight?")
    assert why == f"run {RUN} has no round 9: it has 0 to 3"
    assert lines(flserver(*asked, "--format", "json")) == ["[]"]
    (head,) = lines(flserver(*asked, "--format", "csv"))
    assert head.startswith("attempt,client_id,")


def test_what_is_wrong_is_one_line(flserver: Run, db: Path) -> None:
    refused(flserver("--db", db, "ask", "who_took_prt"), "no question 'who_took_prt'; did you mean 'who_took_part'?")
    refused(flserver("--db", db, "ask", "sent_by_a_client"), "for example: ask sent_by_a_client --param client_id=3")
    refused(flserver("--db", db, "ask", "learning_curve", "--run", "day"), "'day'")
    refused(flserver("--db", db, "ask", "learning_curve", "--param", "round"), "NAME=VALUE")
    refused(flserver("--db", db.parent / "none.sqlite", "ask", "learning_curve"), "there is no database")
