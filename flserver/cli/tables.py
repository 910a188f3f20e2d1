"""Rows as text: an aligned table for people, CSV and JSON for programs."""

import csv
import io
import json
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from shutil import get_terminal_size
from tempfile import SpooledTemporaryFile, gettempdir
from typing import Any

import click

from flserver.errors import UsageError
from flserver.record.cells import inert, plain
from flserver.text import json_text, printable

FORMATS = ("table", "csv", "json")
MOST_SHOWN = 1000
"""Rows of a table at a terminal."""
BATCH = 200  # rows that are written at once
PIECE = 1 << 16  # characters
IN_MEMORY = 1 << 20
"""Bytes of an answer that take no file."""


def say(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], form: str, *, raw: bool = False, nothing: str | None = None
) -> None:
    """Print the rows in one of ``FORMATS``: a table at a terminal fits its width, and has its reader's times. In a
    table's place stands ``nothing``, where it is given and there are no rows.

    Rows may be read from the record while they are asked for: few are in memory at once, and no line is printed before
    the last of them was read, so that whoever reads slowly holds nothing up, and what fails on the way has printed
    nothing. At a terminal only ``MOST_SHOWN`` are read.
    """
    if form != "table":
        for text in _kept(_FORMS[form](columns, rows, raw)):
            click.echo(text, nl=False)
        return
    each = iter(rows)
    begun = [*islice(each, MOST_SHOWN + 1)]
    if not begun and nothing is not None:
        click.echo(nothing)
    elif sys.stdout.isatty():
        if isinstance(each, Generator):
            each.close()
        for line in screen_lines(columns, begun[:MOST_SHOWN], terminal_width()):
            click.echo(line)
        if not begun:
            click.echo("no rows", err=True)
        if len(begun) > MOST_SHOWN:
            click.echo(f"\nthe first {MOST_SHOWN:,} rows, and there are more: in a pipe, and as csv and json, are all")
    else:
        for text in _table(columns, chain(begun, each)):
            click.echo(text, nl=False)


def terminal_width() -> int:
    """How many cells a line of the terminal has: ``COLUMNS``, else what it says of itself, else 80."""
    return max(1, get_terminal_size().columns)


def screen_lines(columns: Sequence[str], rows: Sequence[Sequence[Any]], width: int) -> list[str]:
    """The rows as a table of at most ``width`` cells (``cli/fitting.py``)."""
    from flserver.cli.fitting import column, fitted

    values = [[row[i] for row in rows] for i in range(len(columns))]
    made = [column(printable(head), each, [*map(_cell, each)]) for head, each in zip(columns, values, strict=True)]
    return fitted(made, width) if made else []


def _json(columns: Sequence[str], rows: Iterable[Sequence[Any]], raw: bool) -> Iterator[str]:
    """An array of objects, a line each."""
    if twice := {name for name in columns if list(columns).count(name) > 1}:
        raise UsageError(f"two columns are called {', '.join(sorted(twice))}: name them apart, by AS, for JSON")
    before = "[\n"
    for row in rows:
        yield f"{before}{json_text(dict(zip(columns, row, strict=True)))}"
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]], raw: bool) -> Iterator[str]:
    """The values as they are, but bytes as hexadecimal digits. Text that a spreadsheet would calculate has an
    apostrophe before it, unless ``raw``."""
    yield _csv_line(columns)
    for row in rows:
        yield _csv_line(map(plain if raw else inert, row))


_FORMS = {"json": _json, "csv": _csv}


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """A table: text from outside is escaped, numbers are shortened and NULL is empty."""
    widths, numeric, any_rows = [*map(len, columns)], [True] * len(columns), False

    def cells() -> Iterator[str]:
        nonlocal any_rows
        for row in rows:
            made, any_rows = [*map(_cell, row)], True
            for place, (value, cell) in enumerate(zip(row, made, strict=True)):
                widths[place] = max(widths[place], len(cell))
                numeric[place] = numeric[place] and isinstance(value, int | float | None)
            yield f"{json.dumps(made)}\n"

    def line(texts: Sequence[str]) -> str:
        right = [each and any_rows for each in numeric]
        padded = [c.rjust(w) if to_right else c.ljust(w) for c, w, to_right in zip(texts, widths, right, strict=True)]
        return f"{'  '.join(padded).rstrip()}\n"

    kept = _kept(cells(), by_line=True)
    first = next(kept, None)  # now all rows were read, and the widths are known
    yield line(columns) + "  ".join("-" * width for width in widths) + "\n"
    for pieces in batched(() if first is None else chain((first,), kept)):
        yield "".join(line(json.loads(each)) for each in pieces)


def batched(texts: Iterable[str]) -> Iterator[list[str]]:
    """The ``texts``, ``BATCH`` at once."""
    each = iter(texts)
    while batch := [*islice(each, BATCH)]:
        yield batch


def _kept(texts: Iterable[str], *, by_line: bool = False) -> Iterator[str]:
    """The whole of ``texts``, in pieces or by its lines, once the last of them is there: until then it is in memory as
    far as that is little, and else in a file without a name. Raises UsageError where that has no room."""
    with SpooledTemporaryFile(IN_MEMORY, "w+", encoding="utf-8", newline="\n") as file:
        try:
            for batch in batched(texts):
                file.write("".join(batch))
            file.seek(0)
        except OSError as error:
            raise UsageError(f"the answer finds no room in {gettempdir()}: {error.strerror}; ask for less") from error
        yield from file if by_line else iter(partial(file.read, PIECE), "")


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
