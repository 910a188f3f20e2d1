"""Text from outside, made printable, and values in the form that text can hold."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from flserver.text import did_you_mean, edit_distance, json_number, json_text, printable, three_decimals


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


@pytest.mark.parametrize(
    ("word", "meant"),
    [("fasion-mnist", "fashion-mnist"), ("MNIST", "mnist"), ("FashionMNIST", "fashion-mnist"), ("cifar", "cifar10")],
)
def test_the_word_that_was_nearly_written_is_offered(word: str, meant: str) -> None:
    known = ("digits", "mnist", "fashion-mnist", "cifar10")
    assert did_you_mean(word, known) == f"; did you mean {meant!r}?"
    assert did_you_mean(word, known, before="--") == f"; did you mean '--{meant}'?"


def test_nothing_is_offered_for_a_word_like_none() -> None:
    assert did_you_mean("imagenet", ("digits", "cifar10")) == did_you_mean("digits", ()) == ""


@pytest.mark.parametrize(
    ("one", "other", "letters"),
    [("", "", 0), ("night", "night", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("form", "from", 2), ("a", "b", 1)],
)
def test_how_many_letters_make_one_word_the_other(one: str, other: str, letters: int) -> None:
    assert edit_distance(one, other) == edit_distance(other, one) == letters


@dataclass(frozen=True)
class Measured:
    round: int
    loss: float


def test_json_that_leaves_the_house_is_ascii_and_has_numbers_that_json_has_not_as_texts() -> None:
    value = {1: Measured(2, math.nan), "é": [b"\xff", Path("a/b"), (True, None, -math.inf)], "n": 0.1}
    written = json_text(value)
    assert written.isascii()
    assert json.loads(written) == {
        "1": {"round": 2, "loss": "NaN"},
        "é": ["ff", "a/b", [True, None, "-Infinity"]],
        "n": 0.1,
    }
    assert json_text({"a": 1}, indent=1) == '{\n "a": 1\n}'
