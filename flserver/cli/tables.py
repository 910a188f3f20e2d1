"""Rows as text: an aligned table for people, CSV and JSON for programs."""

import csv
import io
import json
import sys
from collections.abc import Iterable, Sequence
from shutil import get_terminal_size
from typing import Any

import click

from flserver.errors import UsageError
from flserver.record.cells import inert, plain, plain_json
from flserver.text import printable

FORMATS = ("table", "csv", "json")


def say(columns: Sequence[str], rows: Sequence[Sequence[Any]], form: str, *, raw: bool = False) -> None:
    """Print the rows in one of ``FORMATS``: a table at a terminal fits its width, and has its reader's times."""
    if form == "table" and sys.stdout.isatty():
        click.echo("".join(f"{line}\n" for line in screen_lines(columns, rows, terminal_width())), nl=False)
    else:
        click.echo(render(columns, rows, form, raw=raw), nl=False)


def terminal_width() -> int:
    """How many cells a line of the terminal has: ``COLUMNS``, else what it says of itself, else 80."""
    return max(1, get_terminal_size().columns)


def screen_lines(columns: Sequence[str], rows: Sequence[Sequence[Any]], width: int) -> list[str]:
    """The rows as a table of at most ``width`` cells (``cli/fitting.py``)."""
    from flserver.cli.fitting import column, fitted

    values = [[row[i] for row in rows] for i in range(len(columns))]
    made = [column(printable(head), each, [*map(_cell, each)]) for head, each in zip(columns, values, strict=True)]
    return fitted(made, width) if made else []


def render(columns: Sequence[str], rows: Sequence[Sequence[Any]], format: str, *, raw: bool = False) -> str:
    """The rows in one of ``FORMATS``, with a newline at the end.

    In a table, text from outside is escaped, numbers are shortened and NULL is empty. CSV and JSON hold the values as
    they are, but bytes as hexadecimal digits, and JSON what it has no number for as text. Text that a spreadsheet would
    calculate has an apostrophe before it in CSV, unless ``raw``.
    """
    if format == "json":
        if twice := {name for name in columns if list(columns).count(name) > 1}:
            raise UsageError(f"two columns are called {', '.join(sorted(twice))}: name them apart, by AS, for JSON")
        return json.dumps([dict(zip(columns, map(plain_json, row), strict=True)) for row in rows], indent=2) + "\n"
    if format == "csv":
        return "".join(_csv_line(line) for line in (columns, *(map(plain if raw else inert, row) for row in rows)))
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
    return printable(str(plain(value)), limit=10_000)


def _csv_line(values: Iterable[Any]) -> str:
    """A row of CSV. The writer quotes what its own lines end with: a carriage return alone begins a row for some."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(values)
    return text.getvalue().removesuffix("\r\n") + "\n"
