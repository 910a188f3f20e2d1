"""Following a run that is over, or not there."""

import json
from pathlib import Path

import pytest

from flserver.cli import tail as module
from tests.cli.conftest import Run, lines, refused
from tests.e2e.harness import free_port
from tests.recorded_run import RUN
from tests.store import story


def test_a_run_that_is_over_is_told_to_its_end(flserver: Run, db: Path) -> None:
    said = lines(flserver("--db", db, "tail", "night", "--lines", "2"))
    assert [line.split(" ", 1)[1][:14] for line in said] == ["INFO round 3/2", f"INFO run {RUN}"[:14]]
    assert said[0].split(" ")[0].endswith("Z"), "into a pipe times are UTC"
    told = [json.loads(line) for line in lines(flserver("--db", db, "tail", "night", "--json", "--lines", "99"))]
    assert [line["type"] for line in told] == [
        *("RunStarted", "ClientRegistered", "ClientRegistered"),
        *["RoundCommitted"] * 4,
        "RunEnded",
    ]
    assert told[0]["level"] == "info"


def test_an_interrupted_run_says_so_with_its_exit_code(flserver: Run, db: Path) -> None:
    code, said, err = flserver("--db", db, "tail")
    assert (code, err) == (3, "")
    assert said.splitlines()[-1].split(" ", 2)[1] == "WARNING"
    assert "interrupted" in said.splitlines()[-1]


def test_a_run_that_nobody_serves_is_waited_for_and_that_is_said(
    flserver: Run, story_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([None, None])

    def pause(pace: object) -> None:
        if next(looks, "end") == "end":
            raise KeyboardInterrupt

    monkeypatch.setattr(module._Pace, "pause", pause)
    story.write(story_db, story.left_over(), run_id=story.LEFT, process_id=2)
    code, _, err = flserver("--db", story_db, "tail")
    assert (code, err.count("no server has the database open")) == (0, 1), "Ctrl-C is quiet, with 0"


def test_what_is_not_there_is_not_waited_for_unless_it_is_asked_for(flserver: Run, db: Path, tmp_path: Path) -> None:
    refused(flserver("--db", tmp_path / "none.sqlite", "tail"), "there is no database")
    refused(flserver("--db", db, "tail", "day"), "has no run 'day'")
    refused(flserver("tail", "--from-metrics", f"http://127.0.0.1:{free_port()}"), "gives no metrics of a server")
    refused(flserver("tail", "--from-metrics", "localhost:9464"), "not of the form http://host:9464")
    refused(flserver("tail", "night", "--from-metrics", "http://127.0.0.1:1"), "leave RUN out")
