"""Two runs and more beside each other, and curves in a line of text."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from flserver.cli.compare import curve_lines
from flserver.cli.sparkline import places, sparkline
from flserver.store.schema import ensure_head
from tests import facts
from tests.cli.conftest import Run, lines, refused
from tests.recorded_run import PLAIN, RUN
from tests.store import story


def test_what_differs_how_they_learned_and_which_rounds_were_best(flserver: Run, db: Path) -> None:
    said = lines(flserver("--db", db, "compare", "night", "plain"))
    assert said[0].split() == ["run", "night", "plain"]
    assert said[2].split() == ["run_id", RUN, PLAIN]
    assert [line.split() for line in said if line.startswith(("best_round", "last_loss"))] == [
        ["best_round", "2"],
        ["last_loss", "0.5"],
    ]
    assert said[-8:] == [
        "",
        "loss: 0.4 to 2.3, rounds 0 to 3",
        "night  █▃▁▁",
        "plain  ·",
        "",
        "accuracy: 0.1 to 0.95, rounds 0 to 3",
        "night  ▁▇██",
        "plain  ·",
    ]


def test_for_programs_all_of_it_is_one_object(flserver: Run, db: Path) -> None:
    found = json.loads(flserver("--db", db, "compare", "newest", "20260131", "--json")[1])
    assert [run["run_id"] for run in found["runs"]] == [PLAIN, RUN]
    assert found["runs"][1]["accuracy"] == {"0": 0.1, "1": 0.8, "2": 0.95, "3": 0.9}
    assert (found["runs"][1]["best"]["round"], found["runs"][1]["last"]["round"]) == (2, 3)
    assert found["differing"] == {}
    assert found["equal"] > 5


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """Two runs whose trainers had learning rates of their own, and one whose trainers said nothing."""
    path = tmp_path / "told.sqlite"
    ensure_head(path)
    rates: dict[str, list[dict[str, Any]]] = {
        "slow": [{"learning_rate": 0.01, "epochs": 1}] * 2,
        "fast": [{"learning_rate": 0.1, "epochs": 1, "\x1b[2J": n} for n in range(10)],
        "mute": [{}],
    }
    for process, (name, infos) in enumerate(rates.items(), 1):
        clients = {str(number): process * 100 + number for number in range(len(infos))}
        events = [
            facts.run_started(name, name, config={"server_port": process, "min_clients": process, "metrics_port": 1})
        ]
        events += [facts.server_started(process), *map(facts.opened, clients.values())]
        for (client, connection), info in zip(clients.items(), infos, strict=True):
            events.append(facts.registered(client, connection, info=info))
        events += [facts.attempt(1, 1, list(clients), process_id=process)]
        events += [facts.committed(1, 1, [facts.silent(client) for client in clients])]
        story.write(path, events, run_id=name, process_id=process)
    return path


def test_what_trainers_told_that_differs_is_a_block_and_ports_are_a_line(flserver: Run, told: Path) -> None:
    said = lines(flserver("--db", told, "compare", "slow", "fast"))
    settings = said[said.index("settings that differ (8 are the same)") :]
    assert [line.split() for line in settings[1:4:2]] == [["setting", "slow", "fast"], ["min_clients", "1", "2"]]
    assert settings[4] == "and where it ran: server_port 1, 2"
    assert settings[6] == "what trainers told that differs"
    assert [line.split("  ")[0] for line in settings[9:11]] == ["\\x1b[2J", "learning_rate"]
    assert settings[9].endswith("0, 1, 2, 3, 4, 5, 6, 7 and 2 more")
    assert settings[10].split() == ["learning_rate", "0.01", "0.1"]
    found = json.loads(flserver("--db", told, "compare", "slow", "fast", "--json")[1])
    assert found["told"]["learning_rate"] == [{"values": [0.01], "distinct": 1}, {"values": [0.1], "distinct": 1}]
    assert found["differing"]["server_port"] == [1, 2]


def test_where_trainers_told_nothing_that_is_said(flserver: Run, told: Path, db: Path) -> None:
    assert "(of mute trainers' own settings are not on record: they told nothing)" in lines(
        flserver("--db", told, "compare", "slow", "mute")
    )
    assert "(they told nothing: their own settings, such as a learning rate, are not on record)" in lines(
        flserver("--db", db, "compare", "night", "plain")
    )


def test_where_nothing_differs_or_only_the_place_that_is_said(flserver: Run, tmp_path: Path) -> None:
    path = tmp_path / "same.sqlite"
    ensure_head(path)
    for process, (name, port) in enumerate((("one", 1), ("same", 1), ("moved", 2)), 1):
        begun = [facts.run_started(name, name, config={"server_port": port}), facts.server_started(process)]
        told = [facts.opened(process), facts.registered("1", process, info={"epochs": 1}), facts.attempt(1, 1, ["1"])]
        story.write(path, [*begun, *told], run_id=name, process_id=process)
    said = lines(flserver("--db", path, "compare", "one", "same"))
    assert "nothing differs" in said
    assert "nothing: they told the same" in said
    said = lines(flserver("--db", path, "compare", "one", "moved"))
    assert "only where it ran: server_port 1, 2" in said
    assert "nothing differs" not in said


def test_what_cannot_be_compared(flserver: Run, db: Path) -> None:
    refused(flserver("--db", db, "compare"), "two runs or more")
    refused(flserver("--db", db, "compare", "night"), "two runs or more")
    refused(flserver("--db", db, "compare", "night", "day"), "has no run 'day'")
    refused(flserver("--db", db, "compare", "newest", "plain"), f"'newest' and 'plain' are the same run, {PLAIN}")


def test_a_sparkline_is_on_the_scale_that_it_is_given() -> None:
    each = [range(n, n + 1) for n in range(5)]
    curve = {0: 0.0, 1: 0.5, 2: None, 3: 1.0}
    assert sparkline(curve, each, 0.0, 1.0) == "▁▅·█ "
    assert sparkline(curve, each, 0.0, 10.0) == "▁▁·▁ "
    assert sparkline({0: 0.0, 1: math.nan, 2: 1.0}, each, 0.0, 1.0) == "▁!█  ", "it had diverged"
    assert sparkline({0: 3.0}, each[:1], 3.0, 3.0) == "▁"
    assert sparkline({0: 0.0, 1: 1.0, 2: None}, [range(0, 3)], 0.0, 1.0) == "▅", "the mean of what was measured"


@pytest.mark.parametrize(("last", "width", "groups"), [(3, 80, 4), (99, 40, 40), (0, 5, 1), (6, 3, 3), (5, -3, 1)])
def test_rounds_are_grouped_in_order_and_none_is_left_out(last: int, width: int, groups: int) -> None:
    made = places(0, last, width)
    assert len(made) == groups
    assert [n for each in made for n in each] == [*range(last + 1)]
    assert max(map(len, made)) - min(map(len, made)) <= 1


def test_curves_are_aligned_by_round_and_fit_the_width() -> None:
    long = {n: float(n) for n in range(200)}
    said = curve_lines("loss", ["a", "a name that is longer than a label may be"], [long, {0: 0.0}], 60)
    assert max(map(cell_len, said)) <= 60
    first, second = said[-2:]
    assert first.index("▁") == second.index("▁"), "round 0 stands below round 0"
    assert said[1] == "loss: 0 to 199, rounds 0 to 199, up to 6 a mark"
    assert curve_lines("loss", ["a"], [{0: None}], 60) == []
    assert curve_lines("loss", ["a"], [{0: 1.0, 1: math.inf, 2: 2.0}], 60)[1:] == [
        "loss: 1 to 2, rounds 0 to 2",
        "a  ▁!█",
    ]
