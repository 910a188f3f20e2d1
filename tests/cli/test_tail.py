"""Following a run that is over, or not there."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from flserver.cli import tail as module
from flserver.events.words import RunStatus
from tests import facts
from tests.cli.conftest import Run, refused
from tests.e2e.harness import free_port
from tests.recorded_run import RUN
from tests.store import story


def test_a_run_that_is_over_is_told_to_its_end(flserver: Run, db: Path) -> None:
    code, out, err = flserver("--db", db, "tail", "night", "--lines", "2")
    said = out.splitlines()
    assert code == 0
    assert [line.split(" ", 1)[1][:14] for line in said] == ["INFO round 3/2", f"INFO run {RUN}"[:14]]
    assert said[0].split(" ")[0].endswith("Z"), "into a pipe times are UTC"
    first, over = err.splitlines()
    assert re.fullmatch(rf"flserver tail: run {RUN} \(night\), completed \d.* ago", first)
    wait = "--wait waits for its resumption, or the next of its name"
    assert re.fullmatch(rf"flserver tail: it is over \(completed \d.* ago\); {wait}", over)
    _, out, err = flserver("--db", db, "tail", "night", "--json", "--lines", "99")
    told = [json.loads(line) for line in out.splitlines()]
    assert [line["type"] for line in told] == [
        *("RunStarted", "ClientRegistered", "ClientRegistered"),
        *["RoundCommitted"] * 4,
        "RunEnded",
    ]
    assert told[0]["level"] == "info"
    assert "completed" in err, "which run it is, is no line of JSON"


def test_an_interrupted_run_says_so_with_its_exit_code(flserver: Run, db: Path) -> None:
    code, said, err = flserver("--db", db, "tail")
    assert code == 3
    assert "--wait waits for the next\n" in err
    assert said.splitlines()[-1].split(" ", 2)[1] == "WARNING"
    assert "interrupted" in said.splitlines()[-1]


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Lets the calls happen one after the other, each while something is waited for; gives what was waited for."""

    def happens(*calls: Callable[[], None]) -> list[str]:
        left, waited_for = list(calls), []

        def goes_on(pace: object, why: str) -> bool:
            waited_for.append(why)
            left.pop(0)()
            return True

        monkeypatch.setattr(module._Pace, "goes_on", goes_on)
        return waited_for

    return happens


@pytest.fixture
def over_db(story_db: Path) -> Path:
    story.write(story_db, [facts.run_ended(run_id=story.RUN)], process_id=1)
    return story_db


def next_run(db: Path, status: RunStatus = "completed") -> None:
    begun = [*story.started(story.LEFT, 7, "evening"), facts.run_ended(status, run_id=story.LEFT)]
    story.write(db, begun, run_id=story.LEFT, process_id=7)


def test_after_a_run_that_is_over_the_next_one_is_waited_for(
    flserver: Run, over_db: Path, meanwhile: Callable[..., list[str]]
) -> None:
    waited_for = meanwhile(lambda: None, lambda: next_run(over_db, "failed"))
    code, out, err = flserver("--db", over_db, "tail", "--wait")
    assert code == 1, "that of the next run"
    assert waited_for == ["waiting for the next run"] * 2
    assert [line.split(" ", 2)[2] for line in out.splitlines()] == [
        f"run {story.LEFT} (evening) started: 2 rounds",
        f"run {story.LEFT} failed, model {facts.run_ended('failed').final_digest}",
    ], "and nothing of the run before"
    assert f"run {story.RUN} (night), completed" in err.splitlines()[0]
    assert f"run {story.LEFT} (evening), failed" in err.splitlines()[1]


def test_a_run_that_is_named_is_waited_for_and_no_other(
    flserver: Run, over_db: Path, meanwhile: Callable[..., list[str]]
) -> None:
    def resumed() -> None:
        more = [facts.run_resumed(run_id=story.RUN), facts.run_ended("interrupted", run_id=story.RUN)]
        story.write(over_db, more, run_id=story.RUN, process_id=3)

    def again() -> None:
        more = [facts.run_resumed(run_id=story.RUN), facts.run_ended("completed", run_id=story.RUN)]
        story.write(over_db, more, run_id=story.RUN, process_id=4)

    waited_for = meanwhile(lambda: next_run(over_db), resumed, again)
    code, out, _ = flserver("--db", over_db, "tail", "night", "--wait")
    assert code == 0
    assert [why.split(":")[0] for why in waited_for] == [
        *["waiting for 'night' to be resumed, or to begin anew"] * 2,
        "the run is interrupted",
    ]
    said = [line.split(" ", 4)[4].split(",")[0].split(" from")[0] for line in out.splitlines()]
    assert said == ["resumed", "interrupted", "resumed", "completed"]


def test_an_interrupted_run_that_is_not_gone_on_with_is_left_for_the_next(
    flserver: Run, db: Path, meanwhile: Callable[..., list[str]]
) -> None:
    meanwhile(lambda: None, lambda: next_run(db))
    code, out, _ = flserver("--db", db, "tail", "--wait", "--lines", "0")
    assert code == 0
    assert f"run {story.LEFT} (evening) started" in out


def test_a_run_that_a_killed_server_left_is_waited_for_as_long_as_an_interrupted_one(
    flserver: Run, story_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESTART", 0.3)
    story.write(story_db, story.left_over(), run_id=story.LEFT, process_id=2)
    code, _, err = flserver("--db", story_db, "tail", "--interval", "0.1")
    assert code == 3
    said = err.splitlines()
    assert f"run {story.LEFT} (killed), running (no server has it), last heard of " in said[0]
    resume = f"--db {story_db} --resume --run-name killed (Ctrl-C ends the waiting)"
    assert said[1].startswith("flserver tail: no server has the run: waiting for 0 seconds for its resumption, by ")
    assert said[1].endswith(resume)
    assert said[2:] == ["flserver tail: nobody has gone on with it for 0 seconds"]


def test_ctrl_c_ends_the_waiting_quietly(flserver: Run, story_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def goes_on(pace: object, why: str) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(module._Pace, "goes_on", goes_on)
    story.write(story_db, story.left_over(), run_id=story.LEFT, process_id=2)
    code, _, err = flserver("--db", story_db, "tail")
    assert (code, len(err.splitlines())) == (0, 1)


def test_what_is_not_there_is_not_waited_for_unless_it_is_asked_for(flserver: Run, db: Path, tmp_path: Path) -> None:
    refused(flserver("--db", tmp_path / "none.sqlite", "tail"), "there is no database")
    refused(flserver("--db", db, "tail", "day"), "has no run 'day'")
    refused(flserver("tail", "--from-metrics", f"http://127.0.0.1:{free_port()}"), "gives no metrics of a server")
    refused(flserver("tail", "--from-metrics", "localhost:9464"), "not of the form http://host:9464")
    refused(flserver("tail", "night", "--from-metrics", "http://127.0.0.1:1"), "leave RUN out")
