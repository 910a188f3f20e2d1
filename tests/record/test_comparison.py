"""What is told of runs that are held beside each other."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from flserver import events as e
from flserver.record.comparison import compare
from flserver.record.told import LONGEST, LONGEST_INFO, MOST_KEYS, MOST_VALUES
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from flserver.text import json_text
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


def told(path: Path, run_id: str, process: int, *infos: dict[str, Any], guest: dict[str, Any] | None = None) -> None:
    """A run to which so many trainers were invited, and to which a ``guest`` registered only."""
    events = [facts.run_started(run_id, run_id, config={"seed": 1}), facts.server_started(process)]
    for number, info in enumerate([*infos, guest or {}], 1):
        events += [
            facts.opened(process * 1000 + number),
            facts.registered(str(number), process * 1000 + number, info=info),
        ]
    names = [str(number) for number in range(1, len(infos) + 1)]
    events += [facts.attempt(1, 1, names, process_id=process), facts.committed(1, 1, [facts.silent(n) for n in names])]
    story.write(path, events, run_id=run_id, process_id=process)


@pytest.fixture
def trained(tmp_path: Path) -> Reader:
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    guest = {"learning_rate": 9.0}
    told(path, "one", 1, {"learning_rate": 0.1, "epochs": 1, "x": {"a": 1}}, {"learning_rate": 0.01, "epochs": 1})
    told(path, "two", 2, {"learning_rate": 0.1, "epochs": 1.0, "site": "\ud800" + "x" * 500, "on": True}, guest=guest)
    told(path, "none", 3, {}, {})
    return Reader(path)


def test_what_trainers_told_that_differs_is_named_with_each_runs_values(trained: Reader) -> None:
    found = compare(trained, [trained.run("one"), trained.run("two")])
    assert {key: [each.values for each in values] for key, values in found.told.items()} == {
        "learning_rate": [(0.01, 0.1), (0.1,)],
        "on": [(), (True,)],
        "site": [(), (("\ud800" + "x" * 500)[:LONGEST],)],
    }
    assert found.silent == ()
    assert compare(trained, [trained.run("one"), trained.run("none")]).silent == ("none",)


def test_of_what_trainers_told_so_much_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    flood: dict[str, Any] = {f"a{number}": number for number in range(500)}
    told(
        path,
        "one",
        1,
        flood | {"epochs": 1},
        *({"epochs": 10**400, "place": number} for number in range(MOST_VALUES + 1)),
    )
    told(path, "two", 2, {"epochs": "x" * LONGEST_INFO})
    reader = Reader(path)
    found = compare(reader, [reader.run("one"), reader.run("two")])
    assert len(found.told) == MOST_KEYS
    assert [each.values for each in found.told["epochs"]] == [(1, 10**400), ()], "what most trainers told comes first"
    place, _ = found.told["place"]
    assert (place.distinct, place.values) == (MOST_VALUES + 1, tuple(range(MOST_VALUES)))
    assert found.silent == ("two",)


def test_where_a_run_is_at_home_comes_last(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    for process, run_id in enumerate((SLOW, FAST), 1):
        config = {
            "metrics_port": process,
            "host": run_id,
            "num_rounds": process,
            "checkpoint_dir": "/x",
            "zeal": process,
        }
        story.write(path, run(run_id, process, run_id, [1.0], config), run_id=run_id, process_id=process)
    reader = Reader(path)
    found = compare(reader, [reader.run(SLOW), reader.run(FAST)])
    assert list(found.differing) == ["num_rounds", "zeal", "host", "metrics_port"]


def test_a_last_round_that_diverged_was_measured_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    metrics = (e.RoundMetric(round=0, name="loss", value=math.nan, source="evaluate"),)
    gone = [facts.run_started(SLOW, "gone"), facts.server_started(1), facts.attempt(0, process_id=1)]
    gone.append(facts.committed(0, 1, [], loss=math.nan, accuracy=0.1, metrics=metrics))
    story.write(path, gone, run_id=SLOW, process_id=1)
    story.write(path, run(FAST, 2, "fine", [2.0], {}), run_id=FAST, process_id=2)
    record = Reader(path)
    diverged, fine = compare(record, [record.run(SLOW), record.run(FAST)]).runs
    assert diverged.last is not None
    assert fine.last is not None
    assert diverged.last.loss is not None
    assert math.isnan(diverged.last.loss)
    assert (diverged.last.accuracy, fine.last.loss) == (0.1, 2.0)
    assert json.loads(json_text(diverged))["loss"] == {"0": "NaN"}, "null is what was not measured"
    assert (diverged.accuracy, fine.loss) == ({0: 0.1}, {0: 2.0})
