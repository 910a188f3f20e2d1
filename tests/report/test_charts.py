"""matplotlib's drawings as part of the page: its colours, its text, nothing that its policy forbids."""

import re
from xml.etree import ElementTree

import pytest

from flserver.report import charts
from flserver.report.charts import Series
from flserver.report.svg import COLOURS

NAN = float("nan")
DRAWN = {
    "curves": charts.curves("c", "loss", [Series(label="a", values={0: 2.0, 1: NAN, 2: 0.5})], (2, 0.5)),
    "curves of many": charts.curves("c", "loss", [Series(label="a", values={n: 1 / (n + 1) for n in range(200)})]),
    "bars by round": charts.stacked("s", "seconds", [1, 2], {"wait": [1.0, 2.0], "evaluate": [0.5, 0.25]}),
    "areas": charts.stacked("s", "seconds", range(1, 200), {"wait": [1.0] * 199, "evaluate": [0.5] * 199}),
    "spread": charts.spread("n", "norm", [1, 2], [(0, 1, 2, 3, 4), (1, 1, 1, 1, 1)]),
    "bars": charts.bars("b", "share", [("$\\frac", 0.75), ("</text><script>", 0.25)]),
    "one point": charts.curves("c", "loss", [Series(label="a", values={3: 0.0})], (3, 0.0)),
    "nothing finite": charts.curves("c", "loss", [Series(label="a", values={0: NAN, 1: float("inf")})]),
}


@pytest.mark.parametrize("kind", DRAWN)
def test_it_has_no_style_and_no_colour_but_the_pages(kind: str) -> None:
    root = ElementTree.fromstring(DRAWN[kind])
    assert (root.tag, root.get("role")) == ("svg", "img")
    for element in root.iter():
        assert element.tag in {"svg", "g", "path", "use", "text", "title", "defs", "clipPath", "rect", "pattern"}
        assert "style" not in element.attrib
        for key in ("fill", "stroke"):
            colour = element.get(key, "none")
            assert colour in {"none", "inherit"} or re.fullmatch(r"var\(--\w+\)|url\(#\w+-\w+\)", colour), colour
    assert not any(colour in DRAWN[kind] for colour in COLOURS)


@pytest.mark.parametrize("kind", DRAWN)
def test_what_it_refers_to_is_in_it_under_its_own_name(kind: str) -> None:
    text = DRAWN[kind]
    name = re.findall(r'aria-labelledby="(\w)"', text)[0]
    ids = re.findall(r' id="([^"]+)"', text)
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) == set(ids)
    assert len(ids) == len(set(ids))
    assert all(found.startswith(f"{name}-") for found in ids)


def test_each_mark_says_its_number_and_what_is_not_finite_has_none() -> None:
    titles = [element.text for element in ElementTree.fromstring(DRAWN["curves"]).iter("title")]
    assert titles == ["a, round 0: 2", "a, round 2: 0.5"]
    assert "best: 0.5" in DRAWN["curves"]
    bars = [element.text for element in ElementTree.fromstring(DRAWN["bars by round"]).iter("title")]
    assert bars == [
        "round 1, wait: 1 s",
        "round 2, wait: 2 s",
        "round 1, evaluate: 0.5 s",
        "round 2, evaluate: 0.25 s",
    ]


def test_text_is_text_and_a_dollar_sign_is_one() -> None:
    texts = ["".join(element.itertext()) for element in ElementTree.fromstring(DRAWN["bars"]).iter("text")]
    assert "$\\frac" in texts
    assert "</text><script>" in texts
    assert "75.0%" in texts


def test_parts_on_each_other_have_patterns_of_their_own() -> None:
    shades = re.findall(r"<pattern", DRAWN["bars by round"])
    assert len(shades) >= 1
    assert len(DRAWN["areas"]) < 60_000


def test_many_rounds_are_a_line_without_marks() -> None:
    assert "<title>" not in DRAWN["curves of many"]
    assert "<title>" not in DRAWN["areas"]


@pytest.mark.parametrize(
    ("value", "said"), [(0, "0"), (0.00012, "0.00012"), (1234.5, "1,234"), (2.5, "2.5"), (1e9, "1e+09")]
)
def test_a_number_beside_an_axis(value: float, said: str) -> None:
    assert charts.number(value) == said


def test_lines_that_cover_each_other_are_named() -> None:
    night = {0: 0.5, 1: NAN, 2: 0.25}
    said = charts.same_as(
        [
            charts.Series(label="night", values=night),
            charts.Series(label="again", values=dict(night)),
            charts.Series(label="longer", values={**night, 3: 0.125}),
            charts.Series(label="other", values={**night, 2: 0.3}),
            charts.Series(label="one", values={0: 0.5}),
            charts.Series(label="none", values={}),
        ]
    )
    assert said == ["", "the same as night", "the same as night up to round 2", "", "", ""]
    assert charts.same_as([]) == []
