"""The picture of clients by rounds: few cells one by one, many as strokes, and each where it belongs."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from flserver.report.participation import Picture
from flserver.report.picture import FILLED, LEVELS, levels_of, states_picture, times_picture
from flserver.report.states import NUMBER, STATES

ACCEPTED, DROPPED = NUMBER["accepted"], NUMBER["dropped"]


def drawn(clients: int, rounds: int, *others: tuple[int, int]) -> Picture:
    """All accepted after a second, but for ``others``: the row and the round of a drop-out."""
    picture = Picture([f"client {n}" for n in range(clients)], 1, rounds, 1)
    for row in range(clients):
        for round in range(1, rounds + 1):
            dropped = (row, round) in others
            picture.put(row, round, DROPPED if dropped else ACCEPTED, None if dropped else 1.0)
    return picture


def strokes(svg: str, key: str) -> list[tuple[float, float, float]]:
    """The beginning, the middle of the height, and the length of each stroke."""
    (path,) = re.findall(rf'<path stroke="var\(--{key}\)"[^>]* d="([^"]*)"', svg)
    return [(float(x), float(y), float(n)) for x, y, n in re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)", path)]


def test_each_of_few_cells_says_what_it_is() -> None:
    svg = states_picture(drawn(3, 8, (1, 5)), "p", ["", "", ""])
    titles = [element.text for element in ElementTree.fromstring(svg).iter("title")]
    assert titles == ["accepted"] * 12 + ["dropped out"] + ["accepted"] * 11
    assert svg.count("var(--s-dropped)") == 1
    assert list(re.findall(r">(\d+)</text>", svg)) == [str(n) for n in range(1, 9)]
    assert "client 2" in svg


def test_equal_cells_side_by_side_are_one_stroke_and_a_row_says_what_it_is() -> None:
    svg = states_picture(drawn(10, 100, (4, 21), (4, 22), (9, 100)), "p", [f"row {n}" for n in range(10)])
    state = STATES[DROPPED]
    middle = FILLED * (state.top + state.height / 2)
    assert strokes(svg, "s-dropped") == [(20, pytest.approx(4 + middle), 2), (99, pytest.approx(9 + middle), 1)]
    accepted = strokes(svg, "s-accepted")
    assert len(accepted) == 11
    assert [(x, n) for x, y, n in accepted if 4 <= y < 5] == [(0, 20), (22, 78)]
    assert [(x, n) for x, y, n in accepted if y >= 9] == [(0, 99)]
    assert re.findall("<title>(.*?)</title>", svg) == [f"row {n}" for n in range(10)]


def test_what_is_rare_is_wide_enough_to_be_seen() -> None:
    svg = states_picture(drawn(10, 1000, (4, 21)), "p", [""] * 10)
    scale = re.search(r"scale\(([\d.]+) ", svg)
    assert scale is not None
    ((begin, _, length),) = strokes(svg, "s-dropped")
    assert begin == 20
    assert length * float(scale[1]) >= 1.5, "pixels"


def test_the_longer_the_higher_and_the_darker() -> None:
    picture = drawn(1, 10)
    picture.seconds[0] = np.arange(1, 11)
    cuts = levels_of(picture)
    assert cuts == [2.8, 4.6, 6.4, 8.2]
    svg = times_picture(picture, "p", cuts, [""])
    heights = [float(height) for height in re.findall(r'height="([\d.]+)" fill="var\(--t-\d\)"', svg)]
    assert heights == sorted(heights)
    assert heights[-1] / heights[0] == pytest.approx(LEVELS, rel=0.01)
    assert re.findall(r"var\(--t-(\d)\)", svg) == list("0011223344")
    assert "<title>10 s</title>" in svg


def test_of_many_rounds_a_column_of_times_is_the_slowest_of_some() -> None:
    picture = drawn(3, 1000)
    picture.seconds[2, 997] = 9.0
    svg = times_picture(picture, "p", [2.0], ["", "", ""])
    ((column, middle, _),) = strokes(svg, "t-1")
    assert (column, middle) == (249, pytest.approx(2 + FILLED * 0.8))


def test_nobody_answered() -> None:
    picture = drawn(1, 1, (0, 1))
    assert levels_of(picture) == []
    assert "var(--s-dropped)" in states_picture(picture, "p", [""])
