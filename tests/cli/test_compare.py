"""Two runs and more beside each other, and curves in a line of text."""

import json
from pathlib import Path

import pytest
from rich.cells import cell_len

from flserver.cli.compare import curve_lines
from flserver.cli.sparkline import places, sparkline
from tests.cli.conftest import Run, lines, refused
from tests.recorded_run import PLAIN, RUN


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
