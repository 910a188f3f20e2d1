"""The charts, drawn by matplotlib as SVG in the page's colours."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from flserver.report.svg import COLOURS, INK, LINE, MUTED, PAPER, SERIES, inlined

WIDTH, HEIGHT = 430, 250  # points, and pixels where the page is not narrower
MARKED = 60  # rounds up to which each has a mark of its own
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (9, 3)))
MARKS = ("o", "s", "^", "D", "v", "P")
STACKED = (SERIES[0], SERIES[4], SERIES[1], SERIES[2], SERIES[3])  # grey is what takes the most: waiting
SHAPES = (  # the same in a box of 32 × 14
    "M12.5 7a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z", "M13 4h6v6h-6z", "M16 3l4 7h-8z",
    "M16 2.5l4.5 4.5-4.5 4.5-4.5-4.5z",
    "M16 11l4-7h-8z", "M14.5 3.5h3v2h2v3h-2v2h-3v-2h-2v-3h2z",
)  # fmt: skip
HATCHES = ("///", "", "\\\\\\", "|||", "---")  # of lines: dots would be circles by the thousand

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "flserver",  # the same record is drawn in the same bytes
    "text.parse_math": False,  # a name with a dollar sign is a name
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "text.color": INK,
    "lines.linewidth": 1.8,
    "hatch.linewidth": 0.6,
}


@dataclass(frozen=True, kw_only=True)
class Series:
    """Values by round under a ``label``; what is not finite is a gap."""

    label: str
    values: Mapping[int, float]


def same_as(series: Sequence[Series]) -> list[str]:
    """Of each series the label of the first one before it whose line it covers, and up to which round where that goes
    on further; empty where there is none."""
    said = []
    for place, one in enumerate(series):
        covered = (other for other in series[:place] if _covers(one.values, other.values))
        first = next(covered, None)
        upto = min(max(one.values, default=0), max(first.values, default=0)) if first else 0
        ends = "" if first is None or [*first.values] == [*one.values] else f" up to round {upto}"
        said.append("" if first is None else f"the same as {first.label}{ends}")
    return said


def _covers(one: Mapping[int, float], other: Mapping[int, float]) -> bool:
    """Whether they are the same in every round that both have, and there are two or more, or one has no more."""
    both = one.keys() & other.keys()
    few = len(both) < 2 and len(both) < max(len(one), len(other))
    return not few and all(repr(float(one[round])) == repr(float(other[round])) for round in both) and bool(both)


def number(value: float, _: object = None) -> str:
    """A number beside an axis: three digits that say something, and no power of ten where zeros do."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


@contextmanager
def _axes(width: int = WIDTH, height: int = HEIGHT, left: int = 48) -> Iterator[tuple[Figure, Any]]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width / 72, height / 72), facecolor="none")
        FigureCanvasSVG(figure)
        room = (left / width, 44 / height, (width - left - 10) / width, (height - 44 - 32) / height)
        axes = figure.add_axes(room)
        yield figure, axes


def _by_round(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, color=MUTED, pad=14)
    axes.set_xlabel("round")
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(number))


def _legend(axes: Any) -> None:
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.01, 1.0), ncols=3, frameon=False, fontsize=10.5, labelcolor=MUTED,
        handlelength=2, columnspacing=1, handletextpad=0.5, borderaxespad=0,
    )  # fmt: skip


def _drawn(figure: Figure, name: str, titles: Mapping[str, Sequence[str]] | None = None) -> Markup:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return inlined(text.getvalue(), name, titles or {})


def _logarithmic(axes: Any, values: Sequence[float]) -> None:
    """Where the largest is 50 times the least, and none is zero."""
    if values and min(values) > 0 and max(values) / min(values) > 50:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_major_formatter(FuncFormatter(number))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif values and max(values) > min(values) >= 0 and min(values) < max(values) / 2:
        axes.set_ylim(bottom=0)


def curves(
    name: str, title: str, series: Sequence[Series], best: tuple[int, float] | None = None, legend: bool = True
) -> Markup:
    """Lines by round, one a series, each with a dash and a mark of its own, which :func:`sample` shows too;
    ``best`` has a ring."""
    with _axes() as (figure, axes):
        _by_round(axes, title)
        titles: dict[str, list[str]] = {}
        drawn: list[float] = []
        for place, one in enumerate(series):
            style = place % len(SERIES)
            finite = {round: value for round, value in one.values.items() if math.isfinite(value)}
            drawn += finite.values()
            few = len(one.values) <= MARKED
            (line,) = axes.plot(
                list(one.values),
                [value if math.isfinite(value) else math.nan for value in one.values.values()],
                color=SERIES[style],
                linestyle=DASHES[style],
                marker=MARKS[style] if few or len(finite) == 1 else None,
                markersize=4,
                label=one.label,
            )
            line.set_gid(f"series{place}")
            titles[f"series{place}"] = [f"{one.label}, round {r}: {number(v)}" for r, v in finite.items()]
        _logarithmic(axes, drawn)
        if best is not None:
            axes.plot([best[0]], [best[1]], "o", markersize=10, markerfacecolor="none", markeredgecolor=INK)
            right = best[0] > sum(axes.get_xlim()) / 2
            low = best[1] < sum(axes.get_ylim()) / 2
            axes.annotate(
                f"best: {number(best[1])}", best, xytext=(-8 if right else 8, 14 if low else -18),
                textcoords="offset points", ha="right" if right else "left", fontsize=11,
                bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5},
            )  # fmt: skip
        if legend and len(series) > 1:
            _legend(axes)
        return _drawn(figure, name, titles)


def sample(place: int) -> Markup:
    """A line as :func:`curves` draws that series, for a legend of the page's own."""
    style = place % len(SERIES)
    dash = DASHES[style]
    dashes = "" if isinstance(dash, str) else " ".join(f"{1.8 * part:g}" for part in dash[1])
    return Markup(
        '<svg class="sample" viewBox="0 0 32 14" aria-hidden="true"><path d="M0 7h32" fill="none" stroke-width="1.8"'
        ' stroke="var(--{})" stroke-dasharray="{}"/><path d="{}" fill="var(--{})"/></svg>'
    ).format(COLOURS[SERIES[style]], dashes or "none", SHAPES[style], COLOURS[SERIES[style]])


def stacked(name: str, title: str, rounds: Sequence[int], parts: Mapping[str, Sequence[float]]) -> Markup:
    """Parts on each other by round, each with a pattern of its own: bars, or areas where there are many rounds."""
    with _axes(2 * WIDTH + 20, HEIGHT + 20) as (figure, axes):
        _by_round(axes, title)
        titles: dict[str, list[str]] = {}
        below = [0.0] * len(rounds)
        width = min(0.8, 0.08 * len(rounds))  # a few rounds have no walls
        for place, (label, values) in enumerate(parts.items()):
            above = [low + value for low, value in zip(below, values, strict=True)]
            look: dict[str, Any] = {
                "facecolor": STACKED[place],
                "edgecolor": PAPER,
                "hatch": HATCHES[place],
                "linewidth": 0.5,
                "label": label,
            }
            if len(rounds) <= MARKED:
                for bar, round, value in zip(
                    axes.bar(rounds, values, bottom=below, width=width, **look), rounds, values, strict=True
                ):
                    bar.set_gid(f"{label}{round}")
                    titles[f"{label}{round}"] = [f"round {round}, {label}: {number(value)} s"]
            else:
                axes.fill_between(rounds, below, above, **look | {"linewidth": 0})
            below = above
        axes.set_xlim(rounds[0] - 0.6, rounds[-1] + 0.6)
        _legend(axes)
        axes.get_legend().set_bbox_to_anchor((1.0, 1.0))
        return _drawn(figure, name, titles)


def spread(name: str, title: str, rounds: Sequence[int], quantiles: Sequence[Sequence[float]]) -> Markup:
    """By round the median as a line, the middle half as a band, least and greatest as thin lines: five quantiles."""
    least, low, middle, high, most = zip(*quantiles, strict=True)
    with _axes() as (figure, axes):
        _by_round(axes, title)
        axes.fill_between(rounds, low, high, facecolor=SERIES[0], alpha=0.25, linewidth=0, label="middle half")
        axes.plot(rounds, most, color=SERIES[1], linewidth=1, linestyle=DASHES[1], label="largest")
        axes.plot(rounds, least, color=SERIES[1], linewidth=1, linestyle=DASHES[2])
        marker = "o" if len(rounds) <= MARKED else None
        (line,) = axes.plot(rounds, middle, color=SERIES[0], marker=marker, markersize=3.5, label="median")
        line.set_gid("median")
        _logarithmic(axes, [*least, *most])
        _legend(axes)
        said = [
            f"round {r}: median {number(m)}, largest {number(x)}" for r, m, x in zip(rounds, middle, most, strict=True)
        ]
        return _drawn(figure, name, {"median": said})


def bars(name: str, title: str, values: Sequence[tuple[str, float]]) -> Markup:
    """Horizontal bars, the first on top, each with its label and its value; values are shares from 0 to 1."""
    labels, shares = zip(*values, strict=True)
    with _axes(height=76 + 20 * len(labels), left=130) as (figure, axes):
        axes.set_title(title, loc="left", fontsize=12, color=MUTED, pad=10, x=-0.4)
        places = range(len(labels))
        axes.barh(places, shares, height=0.62, color=SERIES[0])
        for place, value in zip(places, shares, strict=True):
            at = {"xytext": (6, 0), "textcoords": "offset points"}
            axes.annotate(f"{value:.1%}", (value, place), va="center", fontsize=11, **at)
        axes.set_yticks(places, labels)
        axes.invert_yaxis()
        axes.set_xlim(0, max(shares) * 1.22)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        return _drawn(figure, name)
