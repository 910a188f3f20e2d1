"""Text from outside, made printable, and values in the form that text can hold."""

import json
import math

import pytest

from flserver.text import json_number, printable, three_decimals


@pytest.mark.parametrize(
    ("number", "written"),
    [(math.nan, '"NaN"'), (math.inf, '"Infinity"'), (-math.inf, '"-Infinity"'), (0.5, "0.5"), (-0.0, "-0.0")],
)
def test_a_number_that_json_does_not_have_is_a_text_that_float_reads(number: float, written: str) -> None:
    assert json.dumps(json_number(number), allow_nan=False) == written
    assert repr(float(json.loads(written))) == repr(number)


@pytest.mark.parametrize(
    ("number", "written"),
    [(0.12345, "0.123"), (2, "2.000"), (math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")],
)
def test_a_number_for_people(number: float, written: str) -> None:
    assert three_decimals(number) == written


def test_printable() -> None:
    assert printable("Zürich 東京 3") == "Zürich 東京 3"
    assert printable("a\x1b\r\n\x7f\x85\u2028\u202e\ud800") == "a\\x1b\\r\\n\\x7f\\x85\\u2028\\u202e\\ud800"
    assert printable("x" * 201) == "x" * 199 + "…"
    assert printable("x" * 200) == "x" * 200
