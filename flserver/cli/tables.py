"""Rows as text: an aligned table for people, CSV and JSON for programs."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from flserver.text import json_number, printable

FORMATS = ("table", "csv", "json")


def render(columns: Sequence[str], rows: Sequence[Sequence[Any]], format: str) -> str:
    """The rows in one of ``FORMATS``, with a newline at the end.

    In a table, text from outside is escaped, numbers are shortened and NULL is empty. CSV and JSON hold the values as
    they are, but bytes as hexadecimal digits, and JSON what it has no number for as text.
    """
    if format == "json":
        return json.dumps([dict(zip(columns, map(_json, row), strict=True)) for row in rows], indent=2) + "\n"
    if format == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_plain(value) for value in row] for row in rows)
        return text.getvalue()
    cells = [list(columns), *([_cell(value) for value in row] for row in rows)]
    numeric = [bool(rows) and all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(columns))]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = []
    for line in cells:
        padded = [c.rjust(w) if right else c.ljust(w) for c, w, right in zip(line, widths, numeric, strict=True)]
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    return printable(str(_plain(value)), limit=10_000)


def _json(value: Any) -> Any:
    return json_number(value) if isinstance(value, float) else _plain(value)


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value
