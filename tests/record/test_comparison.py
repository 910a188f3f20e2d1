"""What is told of runs that are held beside each other."""

from pathlib import Path
from typing import Any

import pytest

from flserver import events as e
from flserver.record.comparison import compare
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from tests import facts
from tests.facts import answered
from tests.store import story

SLOW, FAST = "20260131-090000-aaaaaa", "20260201-090000-bbbbbb"


def run(run_id: str, process: int, name: str, losses: list[float | None], config: dict[str, Any]) -> list[e.Event]:
    events = [facts.run_started(run_id, name, config=config), facts.server_started(process)]
    events += story.registered("1", process * 10)
    for number, loss in enumerate(losses):
        more: dict[str, Any] = {"process_id": process}
        outcomes: list[e.ClientOutcome] = []
        if number:
            events.append(facts.attempt(number, 1, ("1",), **more))
            events += story.uploaded(process * 100 + number, "1", (number, 1))
            outcomes = [answered("1", process * 100 + number, 1.0)]
        else:
            events.append(facts.attempt(0, **more))
        accuracy = None if loss is None else 1 - loss / 4
        events.append(facts.committed(number, 1, outcomes, seconds=float(10 * number), loss=loss, accuracy=accuracy))
    return [*events, facts.run_ended("completed", None, run_id), facts.server_stopped(0, process)]


@pytest.fixture
def two(tmp_path: Path) -> Reader:
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    slow = run(SLOW, 1, "night", [2.0, 1.5, 1.0, 0.5, 1.0], {"min_clients": 2, "seed": 1, "old": True})
    fast = run(FAST, 2, "night", [2.0, None, 0.25], {"min_clients": 3, "seed": 1})
    story.write(path, slow, run_id=SLOW, process_id=1)
    story.write(path, fast, run_id=FAST, process_id=2)
    return Reader(path)


def test_settings_that_differ_are_named_with_each_runs_value_and_the_others_are_counted(two: Reader) -> None:
    found = compare(two, [two.run(SLOW), two.run(FAST)])
    assert found.differing == {"min_clients": (2, 3), "old": (True, None)}
    assert found.equal == len(("model", "strategy", "seed", "server_version", "arithmetic", "parent", "its round"))


def test_curves_best_and_last_rounds_and_times(two: Reader) -> None:
    slow, fast = compare(two, [two.run(SLOW), two.run(FAST)]).runs
    assert slow.loss == {0: 2.0, 1: 1.5, 2: 1.0, 3: 0.5, 4: 1.0}
    assert fast.accuracy == {0: 0.5, 1: None, 2: 0.9375}
    assert slow.best is not None
    assert slow.last is not None
    assert (slow.best.round, slow.best.accuracy, slow.last.round, slow.last.loss) == (3, 0.875, 4, 1.0)
    assert (slow.seconds, fast.seconds) == (25.0, 15.0), "the median over rounds from 1 on"
    assert (slow.clients, slow.updates_accepted, fast.updates_accepted) == (1, 4, 2)


def test_a_run_without_rounds_has_neither_best_nor_times(two: Reader, tmp_path: Path) -> None:
    story.write(tmp_path / "runs.sqlite", story.started("new", 3, "new"), run_id="new", process_id=3)
    (new,) = compare(two, [two.run("new")]).runs
    assert (new.best, new.last, new.seconds, new.loss) == (None, None, None, {})
