"""A run's lines as its events commit, and a server's as its metrics change."""

from pathlib import Path

import pytest

from flserver import events as e
from flserver.record import following
from flserver.record.following import Following
from flserver.record.metrics_page import Seen, lines, seen
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from flserver.store.writer import Writer
from tests import facts
from tests.store import story


@pytest.fixture
def db(tmp_path: Path) -> Path:
    ensure_head(tmp_path / "runs.sqlite")
    return tmp_path / "runs.sqlite"


def texts(follower: Following) -> list[str]:
    return [told.text for told in follower.more()]


def begun(db: Path, *more: e.Event) -> None:
    story.write(db, [*story.started(), *story.registered("1", 1), *more], run_id=story.RUN, process_id=1)


def test_each_event_is_told_once_as_it_commits_and_other_runs_are_not(db: Path) -> None:
    begun(db)
    follower = Following(Reader(db), story.RUN)
    assert texts(follower) == [f"run {story.RUN} (night) started: 2 rounds", "client 1 registered (100 samples)"]
    assert texts(follower) == []
    writer = Writer(db, run_id=story.RUN, process_id=1)
    writer.start(**story.QUIET)
    writer.emit(facts.attempt(1, 1, ("1",)))
    writer.flush()
    assert texts(follower) == ["round 1/2 started with 1 client"], "the server has it open"
    writer.emit(facts.left("1", "reset"))
    writer.close()
    story.write(db, story.started(story.LEFT, 2, "other"), run_id=story.LEFT, process_id=2)
    assert texts(follower) == ["client 1 left: reset"]


def test_how_the_run_is_follows_from_what_was_told(db: Path) -> None:
    begun(db)
    follower = Following(Reader(db), story.RUN)
    assert follower.status == "running"
    states = []
    for event in (
        facts.run_ended("interrupted"),
        facts.run_resumed(from_round=1, num_rounds=3),
        facts.run_left_over(story.RUN),
        facts.run_resumed(from_round=1, num_rounds=3),
        facts.run_ended("completed"),
    ):
        story.write(db, [event], run_id=story.RUN, process_id=1)
        texts(follower)
        states.append(follower.status)
    assert states == ["interrupted", "running", "interrupted", "running", "completed"]


def test_what_came_long_before_is_not_told_and_known(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "BEFORE", 3)
    begun(db, *(facts.closed(1) for _ in range(9)), facts.attempt(1, 1, ("1",)))
    assert texts(Following(Reader(db), story.RUN)) == ["round 1/2 started with 1 client"], "of two rounds"


def test_what_other_runs_did_since_takes_no_line_from_it_and_changes_nothing(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "BEFORE", 3)
    begun(db, facts.run_resumed(from_round=1, num_rounds=3), *(facts.closed(1) for _ in range(4)), facts.run_ended())
    others = [*story.started(story.LEFT, 2, "other"), *(facts.closed(1) for _ in range(9))]
    story.write(db, others, run_id=story.LEFT, process_id=2)
    follower = Following(Reader(db), story.RUN)
    assert (follower.status, texts(follower)) == ("completed", [f"run {story.RUN} completed, model sha256:1"])


def test_more_events_than_a_page(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PAGE", 2)
    begun(db, *(facts.left("1", f"reason {n}") for n in range(1)), *(facts.attempt(n, 1, ("1",)) for n in range(1, 6)))
    said = texts(Following(Reader(db), story.RUN))
    assert [text for text in said if text.startswith("round")] == [
        f"round {n}/2 started with 1 client" for n in range(1, 6)
    ]


def test_what_this_version_does_not_know_is_passed_over() -> None:
    assert following._event("FutureHappened", "{}") is None
    assert following._event("ClientLeft", "{}") is None


PAGE = """\
# HELP flserver_run_info The current run.
# TYPE flserver_run_info gauge
flserver_run_info{{model="m:N",name="a \\"b\\"",run_id="r1",strategy="fedavg"}} 1.0
flserver_run_state{{state="running"}} {running}
flserver_run_state{{state="completed"}} {completed}
flserver_rounds_total{{status="committed"}} {committed}
flserver_planned_rounds 2.0
flserver_current_round {round}
flserver_participants 3.0
flserver_connected_clients {connected}
flserver_round_start_timestamp_seconds {started}
flserver_model_loss 0.25
flserver_updates_total{{decision="late"}} {late}
flserver_dropouts_total{{reason="reset"}} {late}
flserver_messages_total{{direction="in",header="other",outcome="refused"}} {late}
flserver_messages_total{{direction="in",header="other",outcome="ok"}} {late}
process_open_fds 12.0
"""
START = {
    "running": 1.0,
    "completed": 0.0,
    "committed": 1.0,
    "round": 1.0,
    "connected": 3.0,
    "started": 9e8,
    "late": 1.0,
}


def page(health: str = '{"reasons": []}', **more: float) -> Seen:
    return seen(PAGE.format(**(START | more)), health)


def test_a_server_is_told_of_by_what_changes_in_its_metrics() -> None:
    first = page()
    assert list(lines(Seen(), first)) == [
        'run r1 (a "b"): model m:N, strategy fedavg, 0 of 2 rounds committed',
        "3 clients connected",
        "round 1/2 started with 3 clients",
        "state: running",
    ]
    assert list(lines(first, first)) == []
    assert list(lines(first, page(connected=2.0, late=3.0))) == [
        "2 clients connected",
        "2 × update late",
        "2 × client dropped out: reset",
        "2 × message refused: other, in",
    ]
    assert list(lines(first, page(committed=2.0, started=9.1e8, round=2.0))) == [
        "round 1/2 committed: loss 0.250",
        "round 2/2 started with 3 clients",
    ]
    assert list(lines(first, page(committed=3.0, round=2.0, running=0.0, completed=1.0))) == [
        "rounds 1 to 2/2 committed: loss 0.250",
        "state: completed",
    ]


def test_a_model_that_diverged_and_a_strange_page_are_told_of_as_well() -> None:
    diverged, strange = "flserver_model_loss NaN\n", 'flserver_dropouts_total 4\nflserver_messages_total{a="b"} 4\n'
    strange += "flserver_connected_clients NaN\nflserver_planned_rounds +Inf\nflserver_rejoins_total +Inf\n"
    plain = "\n".join(line for line in PAGE.splitlines() if not line.startswith(("flserver_model", "flserver_planned")))
    before, after = (START | {"committed": committed, "connected": 3.0} for committed in (1.0, 2.0))
    first = seen(plain.format(**before) + "\n" + diverged, "{}")
    now = seen(plain.format(**after) + "\n" + diverged, "{}")
    assert list(lines(first, now)) == ["round 1/0 committed: loss NaN"]
    odd = seen(plain.format(**after) + "\n" + diverged + strange, '{"reasons": 5}')
    assert list(lines(now, odd)) == []
    assert list(lines(odd, odd)) == []


def test_an_ill_server_is_said_to_be_one_once_and_when_it_is_well_again() -> None:
    ill = page('{"reasons": ["the writer\\u001b[2J is gone"]}')
    assert list(lines(page(), ill)) == ["unhealthy: the writer\\x1b[2J is gone"]
    assert list(lines(ill, ill)) == []
    assert list(lines(ill, page())) == ["healthy again"]


@pytest.mark.parametrize(("metrics", "health"), [("", "{}"), ("go_goroutines 3\n", "{}"), (PAGE, "[]"), (PAGE, "x")])
def test_what_is_no_servers_answer_is_refused(metrics: str, health: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        seen(metrics, health)
