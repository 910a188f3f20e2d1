"""What the cookbook answers where trainers told this and that, and where a round is worse by one measure only."""

import math
from pathlib import Path
from typing import Any

import pytest

from flserver.record.questions import answer, question
from flserver.record.told import told_by_clients
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from tests import facts
from tests.store import story

ONE, TWO, THREE = "20260131-090000-aaaaaa", "20260201-090000-bbbbbb", "20260202-090000-cccccc"


def told(path: Path, run_id: str, process: int, *infos: dict[str, Any]) -> None:
    clients = {str(number): process * 100 + number for number in range(len(infos))}
    events = [facts.run_started(run_id, run_id), facts.server_started(process), *map(facts.opened, clients.values())]
    for (client, connection), info in zip(clients.items(), infos, strict=True):
        events.append(facts.registered(client, connection, info=info))
    invited = list(clients)[:2]
    events.append(facts.attempt(1, 1, invited, process_id=process))
    events.append(facts.committed(1, 1, [facts.silent(client) for client in invited]))
    story.write(path, events, run_id=run_id, process_id=process)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    told(path, ONE, 1, {"learning_rate": 0.1, "epochs": 1, "on": True}, {"learning_rate": 0.01, "epochs": 1})
    told(
        path,
        TWO,
        2,
        {"learning_rate": 0.1, "epochs": 1, "a\ud800": 1, "site": "\ud800", "nested": {"x": 1}},
        {},
        {"on": 1},
    )
    told(path, THREE, 3, {"learning_rate": 0.1, "epochs": 1.0, "a\ud800": 1, "site": "\ud800"})
    return Reader(path)


def test_what_trainers_told_is_compared_value_by_value(reader: Reader) -> None:
    found = answer(reader, question("told_that_differs"), ONE, {"other_run_id": TWO})
    assert found.rows == [
        ("a\\ud800", None, "1", 0, 1, 0, 1),
        ("learning_rate", "0.01, 0.1", "0.1", 2, 1, 2, 1),
        ("on", "true", None, 1, 0, 1, 0),
        ("site", None, "\\ud800", 0, 1, 0, 1),
    ], "half a character, which no text can hold, is its escape"


def test_where_trainers_told_the_same_there_are_no_rows(reader: Reader) -> None:
    found = answer(reader, question("told_that_differs"), THREE, {"other_run_id": TWO})
    assert found.rows == []
    assert found.nothing.startswith("their trainers told the same")


def test_who_told_what_and_who_told_something_else_later(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    infos = {"1": [{"rate": 0.1}], "2": [{"rate": 0.1, "on": True}, {"rate": 0.01}], "3": [{"rate": 1}, {"rate": 1.0}]}
    begun = [facts.run_started(ONE, ONE), facts.server_started(1)]
    invited = [facts.attempt(1, 1, [*infos]), facts.committed(1, 1, [facts.silent(client) for client in infos])]
    joined = []
    for client, told in {**infos, "4": [{"rate": 9}]}.items():  # who was invited to no round says nothing of them
        for registration, info in enumerate(told, 1):
            connection = 10 * int(client) + registration
            joined += [facts.opened(connection), facts.registered(client, connection, registration, info=info)]
    story.write(path, [*begun, *joined, *invited], run_id=ONE, process_id=1)
    found = told_by_clients(Reader(path), ONE)
    assert {key: dict(of.clients) for key, of in found.items()} == {
        "on": {"null": ["1", "2", "3"]},
        "rate": {"0.01": ["2"], "0.1": ["1"], "1": ["3"]},
    }
    assert [(one.client_id, one.registration, one.before, one.now) for one in found["rate"].changed] == [
        ("2", 2, "0.1", "0.01")
    ]
    assert [(one.before, one.now) for one in found["on"].changed] == [("true", "null")]


def test_it_is_said_by_what_a_round_is_worse_and_the_worst_come_first(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    events = story.started()
    for number, (loss, accuracy) in enumerate([(1.0, 0.5), (1.5, 0.6), (1.4, 0.5), (1.6, 0.4), (1.0, 0.8)]):
        events += [facts.attempt(number), facts.committed(number, loss=loss, accuracy=accuracy)]
    story.write(path, events)
    found = answer(Reader(path), question("got_worse"), None, {})
    by = found.columns.index("by")
    assert [(row[0], row[by]) for row in found.rows] == [(3, "both"), (2, "accuracy"), (1, "loss")]


def test_a_model_that_diverged_is_worse_than_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    events = story.started()
    measured = [(1.0, 0.5), (math.nan, 0.6), (math.inf, 0.6), (0.5, math.nan), (0.25, 0.6), (math.inf, math.nan)]
    for number, (loss, accuracy) in enumerate(measured):
        numbers = {"loss": loss, "accuracy": accuracy}
        of_round = [
            facts.round_metric(round=number, name=name, value=value, source=source)
            for name, value, source in [
                *((name, value, "evaluate") for name, value in numbers.items()),
                ("loss", math.nan, "clients"),
                ("f1", math.nan, "evaluate"),
            ]
        ]
        own = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        events += [facts.attempt(number), facts.committed(number, metrics=tuple(of_round), **own)]
    story.write(path, events)
    found = answer(Reader(path), question("got_worse"), None, {})
    by, note = found.columns.index("by"), found.columns.index("note")
    assert [(row[0], row[by], row[note]) for row in found.rows] == [
        (5, "both", "Infinity"),
        (3, "accuracy", "NaN"),
        (1, "loss", "NaN"),
    ], "and not once more while it stays so; what clients and other numbers say does not count"


def test_what_changed_on_a_resumption_and_is_no_setting_is_called_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    whats = ("num_rounds", "code.flserver", "libraries.torch", "cpu", "arithmetic")
    acts = [
        facts.operator_acted(kind="override", detail={"setting": what, "before": "a", "now": "b"}) for what in whats
    ]
    story.write(path, [*story.started(), *acts])
    found = answer(Reader(path), question("changed_on_resume"), None, {})
    setting, kind = found.columns.index("setting"), found.columns.index("kind")
    assert {(row[setting], row[kind]) for row in found.rows} == {
        *zip(whats, ("setting", "code", "library", "CPU", "arithmetic"), strict=True)
    }
