"""Values in the form that text can hold: what peers chose, safe for a terminal and a log; numbers, for JSON; and what a
word was perhaps meant to be."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any


def printable(text: str, limit: int = 200) -> str:
    """``text`` on one line, at most ``limit`` characters of it.

    What Python does not call printable (control characters, line and paragraph separators, marks that turn the
    direction of writing, lone surrogates) is written as its escape, so it can neither move the cursor, nor start a
    second log line, nor fail to encode.
    """
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    if cut.isprintable():
        return cut
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in cut)


def three_decimals(value: float) -> str:
    """``value`` for people; NaN and the infinities as they are on record."""
    return f"{value:.3f}" if math.isfinite(value) else str(json_number(value))


def json_number(value: float) -> float | str:
    """``value`` as JSON can hold it: NaN and the infinities, which have no number there, become the texts ``NaN``,
    ``Infinity`` and ``-Infinity``. ``float`` reads them back."""
    return value if math.isfinite(value) else json.dumps(value)


def json_plain(value: Any) -> Any:
    """``value`` as JSON can hold it, however deep: numbers as :func:`json_number` has them, bytes as hexadecimal
    digits, a dataclass by its fields' names, and what is neither number, text, truth value nor None as its text."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return json_number(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): json_plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_plain(each) for each in value]
    if is_dataclass(value):
        return {field.name: json_plain(getattr(value, field.name)) for field in fields(value)}
    return str(value)


def json_text(value: Any, indent: int | None = None) -> str:
    """``value`` as JSON, in the one way in which it leaves the house: in ASCII, and as :func:`json_plain` has it. It is
    one line without an ``indent``, so many blanks for each depth."""
    return json.dumps(json_plain(value), indent=indent, allow_nan=False)


def did_you_mean(word: str, known: Iterable[str], before: str = "") -> str:
    """``; did you mean 'x'?`` with the one of ``known`` that is most like ``word``, in whatever case, or nothing where
    none is like it. ``before`` stands before each of them and is not compared."""
    written = {name.casefold(): name for name in known}
    near = get_close_matches(word.casefold(), written, n=1)
    return f"; did you mean {before + written[near[0]]!r}?" if near else ""


def edit_distance(one: str, other: str) -> int:
    """How many letters must be put in, left out or replaced to make ``one`` the ``other`` (Levenshtein's distance)."""
    before = list(range(len(other) + 1))
    for number, letter in enumerate(one, 1):
        row = [number]
        for column, expected in enumerate(other, 1):
            row.append(min(before[column] + 1, row[-1] + 1, before[column - 1] + (letter != expected)))
        before = row
    return before[-1]
