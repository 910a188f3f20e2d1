"""The pictures of clients by rounds, drawn by hand: runs of equal cells are one stroke, so that a hundred thousand
cells are some hundred kilobytes, in the page's colours and sharp in print."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from flserver.report.charts import number
from flserver.report.participation import Picture
from flserver.report.states import ABSENT, STATES
from flserver.text import printable

TOP, RIGHT, BOTTOM = 8, 20, 26
LETTER = 6.4  # of a label: about its width
WIDE = 870  # most of it
EACH = 600  # cells up to which each says what it is
LEAST = 1.8  # pixels that what is rare is wide at least, so that it is seen
FILLED = 0.86  # of a row's height: the rest parts it from the next
LEVELS = 5
TIME_COLUMNS = 250


Look = tuple[str, float, float, Any]
"""A colour, the top and the height of its shape, and which cells have it."""


def short(client_id: str, most: int = 15) -> str:
    """A client's id for an axis."""
    return printable(client_id, most)


def swatch(state: int) -> Markup:
    """A cell as the legend shows it."""
    look = STATES[state]
    return Markup(
        '<svg class="swatch" viewBox="0 0 14 14" aria-hidden="true"><rect class="cell" width="14" height="14"/>'
        '<rect y="{}" width="14" height="{}" fill="var(--s-{})"/></svg>'
    ).format(_short(14 * look.top), _short(14 * look.height), look.key)


def level_swatch(level: int) -> Markup:
    """The same of a level of seconds, from 0 on."""
    height = 14 * (level + 1) / LEVELS
    return Markup(
        '<svg class="swatch" viewBox="0 0 14 14" aria-hidden="true"><rect class="cell" width="14" height="14"/>'
        '<rect y="{}" width="14" height="{}" fill="var(--t-{})"/></svg>'
    ).format(_short(14 - height), _short(height), level)


def states_picture(picture: Picture, name: str, rows: Sequence[str]) -> Markup:
    """What came of each client in each round. ``rows`` say what is to be said of a whole row."""
    looks = [(f"var(--s-{state.key})", state.top, state.height, picture.state == n) for n, state in enumerate(STATES)]
    said = [[*(state.label for state in STATES), ""][cell] for cell in picture.state.flat]
    return _picture(picture, picture.block, name, looks, rows, said, picture.state != ABSENT)


def levels_of(picture: Picture) -> list[float]:
    """The seconds at which one level of the times' picture ends and the next begins: fifths of all, rounded."""
    known = picture.seconds[np.isfinite(picture.seconds)]
    if not known.size:
        return []
    cuts = np.quantile(known, [n / LEVELS for n in range(1, LEVELS)])
    return sorted({float(f"{cut:.2g}") for cut in cuts})


def times_picture(picture: Picture, name: str, cuts: Sequence[float], rows: Sequence[str]) -> Markup:
    """How long each took to answer: the longer, the higher and the darker; several rounds a column where there are
    many, and then the slowest of them."""
    step = -(-picture.columns // TIME_COLUMNS)
    seconds = picture.seconds
    if step > 1:
        padding = -seconds.shape[1] % step
        padded = np.pad(seconds, ((0, 0), (0, padding)), constant_values=np.nan)
        blocks = padded.reshape(seconds.shape[0], -1, step)
        seconds = np.fmax.reduce(blocks, axis=2)
    known = np.isfinite(seconds)
    level = np.where(known, np.searchsorted(cuts, seconds, side="right"), -1)
    looks = [(f"var(--t-{n})", 1 - (n + 1) / LEVELS, (n + 1) / LEVELS, level == n) for n in range(LEVELS)]
    said = (
        [f"{number(float(value))} s" if math.isfinite(value) else "" for value in seconds.flat] if _few(seconds) else []
    )
    return _picture(picture, picture.block * step, name, looks, rows, said, known)


def _few(cells: Any) -> bool:
    return bool(cells.size <= EACH)


def _picture(
    picture: Picture,
    block: int,
    name: str,
    looks: Sequence[Look],
    rows: Sequence[str],
    said: Sequence[str],
    there: Any,
) -> Markup:
    high, columns = there.shape
    left = round(14 + LETTER * max(len(short(client)) for client in picture.clients))
    across = min(28.0, (WIDE - left - RIGHT) / columns)
    down = 26 if high <= 12 else 16 if high <= 40 else 8 if high <= 100 else 6 if high <= 250 else 4
    width, height = left + RIGHT + max(across * columns, 120), TOP + BOTTOM + down * high
    parts = [
        Markup(
            '<svg class="picture" role="img" aria-labelledby="{}" viewBox="0 0 {} {}" width="{}" height="{}">'
        ).format(name, *map(_short, (width, height, width, height)))
    ]
    parts += _labels(picture, block, left, across, down, columns)
    small = _few(there)
    parts.append(Markup('<g transform="translate({} {}) scale({} {})">').format(left, TOP, f"{across:.5g}", down))
    if small:
        parts += _cells(looks, said, there, 2 / across, 2 / down)
    else:
        parts.append(Markup('<rect class="cell" width="{}" height="{}"/>').format(columns, high))
        parts += [_strokes(*look, 0 if common else LEAST / across) for common, look in _commonest_first(looks)]
        parts += [
            Markup('<rect class="row" y="{}" width="{}" height="1"><title>{}</title></rect>').format(row, columns, said)
            for row, said in enumerate(rows)
        ]
    parts.append(Markup("</g></svg>"))
    return Markup("").join(parts)


def _cells(looks: Sequence[Look], said: Sequence[str], there: Any, gap: float, below: float) -> Iterator[Markup]:
    high, columns = there.shape
    for row in range(high):
        for column in range(columns):
            if not there[row, column]:
                continue
            fill, top, tall = next((fill, top, tall) for fill, top, tall, cells in looks if cells[row, column])
            yield Markup(
                '<g><title>{}</title><rect class="cell" x="{}" y="{}" width="{}" height="{}"/>'
                '<rect x="{}" y="{}" width="{}" height="{}" fill="{}"/></g>'
            ).format(
                said[row * columns + column], column, row, _short(1 - gap), _short(1 - below),
                column, _short(row + top * (1 - below)), _short(1 - gap), _short(tall * (1 - below)), fill,
            )  # fmt: skip


def _commonest_first(looks: Sequence[Look]) -> list[tuple[bool, Look]]:
    """The looks that there are, as they are drawn on each other, and whether one is the commonest."""
    there = sorted((look for look in looks if look[3].any()), key=lambda look: -int(look[3].sum()))
    return [(place == 0, look) for place, look in enumerate(there)]


def _strokes(colour: str, top: float, tall: float, cells: Any, least: float) -> Markup:
    """All cells of one look as one path: a stroke for each run of them in a row, ``least`` columns long or more."""
    edges = np.diff(np.pad(cells.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, begins = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    middle = FILLED * (top + tall / 2)
    path = "".join(
        f"M{begin} {row + middle:.5g}h{max(end - begin, least):.4g}"
        for row, begin, end in zip(rows.tolist(), begins.tolist(), ends.tolist(), strict=True)
    )
    return Markup('<path stroke="{}" stroke-width="{}" d="{}"/>').format(colour, _short(FILLED * tall), path)


def _labels(picture: Picture, block: int, left: int, across: float, down: float, columns: int) -> Iterator[Markup]:
    step = max(1, math.ceil(13 / down))
    for row in range(0, len(picture.clients), step):
        yield Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(
            left - 8, _short(TOP + down * (row + 0.5 if down > 12 else row) + 4 + (0 if down > 12 else down / 2)),
            short(picture.clients[row]),
        )  # fmt: skip
    base = TOP + down * len(picture.clients) + 16
    apart = 8 + 7 * len(str(picture.last))  # pixels from one number to the next
    wanted = max(block, -(-(picture.last - picture.first + 1) * apart // max(1, int(across * columns))))
    nice = next(n for power in range(9) for n in (10**power, 2 * 10**power, 5 * 10**power) if n >= wanted)
    there = range(picture.first, picture.last + 1)
    for round in [round for round in there if round % nice == 0] or [picture.first]:
        x = left + across * ((round - picture.first) / block + 0.5 / block)
        yield Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(_short(x), _short(base), round)


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.6g}"
