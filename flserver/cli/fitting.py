"""A table as wide as its reader's terminal: nothing of it is left out, and what is shortened shows it.

Numbers and times stand whole. Text is shortened at its end, digests and ids in the middle: both of their ends tell.
Where the columns do not fit beside each other, the table goes on below itself with its first column repeated, and of
those that are empty the names alone stand at its end.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from functools import cached_property
from typing import Any

from rich.cells import cell_len

GAP = 2  # cells between two columns
LEAST_TEXT, LEAST_ID = 12, 13
"""Cells that a shortened text or id has at least, where the terminal has so many."""
LEFT_TO_RIGHT = "\u200e"  # without width: what is written from right to left before it does not reach beyond

_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_DIGEST = re.compile(r"[a-z0-9]+:[0-9a-f]{16,}")
_IDS = ("_id", "digest", "fingerprint", "checkpoint", "kept", "root")


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column as text: its ``head``, its ``cells``, whether they are numbers, times, or ids; ``width`` in cells."""

    head: str
    cells: tuple[str, ...]
    numeric: bool = False
    times: bool = False
    ids: bool = False
    width: int = 0

    @cached_property
    def wanted(self) -> int:
        return max(map(cell_len, (self.head, *self.cells)))

    @cached_property
    def least(self) -> int:
        """The width below which a number, a time, or a word of the head would be shortened."""
        longest = max(map(cell_len, self.cells), default=0)
        shortest = longest if self.numeric or self.times else min(longest, LEAST_ID if self.ids else LEAST_TEXT)
        return max(shortest, *map(cell_len, (word.rstrip() for word in _words(self.head))))

    def lines(self) -> tuple[list[str], list[str]]:
        """The head's lines and the cells, padded to the width."""
        head = [self._padded(shortened(line, self.width)) for line in _wrapped(self.head, self.width)]
        return head, [self._padded(shortened(cell, self.width, middle=self.ids)) for cell in self.cells]

    def _padded(self, text: str) -> str:
        blank = " " * (self.width - cell_len(text))
        if self.numeric:
            return blank + text
        backwards = any(unicodedata.bidirectional(char) in ("R", "AL", "AN") for char in text)
        return text + (LEFT_TO_RIGHT if backwards else "") + blank


def fitted(columns: Sequence[Column], width: int) -> list[str]:
    """The lines of a table of at most ``width`` cells."""
    lines: list[str] = []
    blocks, empty = _blocks(columns, width), list[Column]()
    if len(blocks) > 1:
        empty = [c for c in columns[1:] if c.cells and not any(c.cells)]
        blocks = _blocks([c for c in columns if not any(c is each for each in empty)], width)
    for block in blocks:
        parts = [column.lines() for column in _widened(block, width)]
        high = max(len(head) for head, _ in parts)
        heads = [[" " * cell_len(head[0])] * (high - len(head)) + head for head, _ in parts]
        rule = ["-" * cell_len(head[0]) for head in heads]
        rows = [*zip(*heads, strict=True), rule, *zip(*(cells for _, cells in parts), strict=True)]
        lines += ["", *((" " * GAP).join(row).rstrip() for row in rows)]
    if empty:
        lines += ["", *_wrapped(f"empty: {', '.join(c.head for c in empty)}", width)]
    return lines[1:]


def shortened(text: str, cells: int, *, middle: bool = False) -> str:
    """``text`` in at most so many cells, with an ellipsis for what is left out, at its end or in the ``middle``."""
    if cell_len(text) <= cells:
        return text
    if cells < 1:
        return ""
    tail = (cells - 1) // 2 if middle else 0
    return _begins(text, cells - 1 - tail) + "…" + _begins(text[::-1], tail)[::-1]


def column(head: str, values: Sequence[Any], cells: Sequence[str], zone: tzinfo | None = None) -> Column:
    """A column of ``values``, which are ``cells`` as text. Times become those of ``zone``, by default the system's, to
    the second; the head names it, or each cell where it changes between them."""
    there = [value for value in values if value is not None]
    if there and all(isinstance(value, int | float) for value in there):
        return Column(head=head, cells=tuple(cells), numeric=True)
    texts = [value for value in there if isinstance(value, str)]
    if texts and len(texts) == len(there) and all(map(_UTC.fullmatch, texts)):
        times = [None if value is None else datetime.fromisoformat(value).astimezone(zone) for value in values]
        zones = {time.tzname() for time in times if time is not None}
        form = "%Y-%m-%d %H:%M:%S" if len(zones) == 1 else "%Y-%m-%d %H:%M:%S %Z"
        head = f"{head} ({zones.pop()})" if len(zones) == 1 else head
        cells = ["" if time is None else time.strftime(form) for time in times]
        return Column(head=head, cells=tuple(cells), times=True)
    ids = head.endswith(_IDS) or (bool(texts) and all(map(_DIGEST.fullmatch, texts)))
    return Column(head=head, cells=tuple(cells), ids=ids)


def _blocks(columns: Sequence[Column], width: int) -> list[list[Column]]:
    """The columns that stand beside each other, the first one in each of them."""
    blocks: list[list[Column]] = [[]]
    for each in columns:
        if blocks[-1] and sum(c.least + GAP for c in blocks[-1]) + each.least > width:
            first = blocks[0][0]
            blocks.append([first] if first.least + GAP + each.least <= width else [])
        blocks[-1].append(each)
    return blocks


def _widened(block: Sequence[Column], width: int) -> list[Column]:
    """The columns with their widths: what is left over goes to those that want more, to the narrowest first."""
    widths = [min(c.least, width) for c in block]
    left = width - sum(widths) - GAP * (len(block) - 1)
    while left > 0 and (short := [i for i, c in enumerate(block) if widths[i] < c.wanted]):
        widths[min(short, key=lambda i: widths[i])] += 1
        left -= 1
    return [replace(c, width=w) for c, w in zip(block, widths, strict=True)]


def _words(head: str) -> list[str]:
    """Where a head may be broken: after an underscore and at a space."""
    return re.findall(r"[^_ ]*_|[^_ ]+ ?|_| ", head) or [head]


def _wrapped(head: str, width: int) -> list[str]:
    lines = [""]
    for word in _words(head):
        if lines[-1] and cell_len(lines[-1]) + cell_len(word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return [line.rstrip() for line in lines]


def _begins(text: str, cells: int) -> str:
    """The longest beginning of ``text`` that takes so many cells."""
    taken = 0
    for place, char in enumerate(text):
        taken += cell_len(char)
        if taken > cells:
            return text[:place]
    return text
