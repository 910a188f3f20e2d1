"""A curve in one line of text."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isfinite

BARS = "▁▂▃▄▅▆▇█"
UNMEASURED, UNMADE, DIVERGED = "·", " ", "!"


def sparkline(curve: Mapping[int, float | None], places: Sequence[range], low: float, high: float) -> str:
    """A character for each of ``places``, which are the rounds that it stands for: how high the mean of their values is
    between ``low`` and ``high``; ``·`` where none of them was measured, a blank where none was made, ``!`` where one is
    no finite number."""
    return "".join(_character([curve[n] for n in each if n in curve], low, high) for each in places)


def _character(values: Sequence[float | None], low: float, high: float) -> str:
    there = [value for value in values if value is not None]
    if not there:
        return UNMEASURED if values else UNMADE
    if not all(map(isfinite, there)):
        return DIVERGED
    share = (sum(there) / len(there) - low) / (high - low) if high > low else 0.0
    return BARS[min(int(share * len(BARS)), len(BARS) - 1)]


def places(first: int, last: int, width: int) -> list[range]:
    """The rounds from ``first`` to ``last`` in at most ``width`` groups, as equal as can be and in their order."""
    count = last - first + 1
    cuts = min(max(width, 1), count)
    bounds = [first + count * number // cuts for number in range(cuts + 1)]
    return [range(start, stop) for start, stop in pairwise(bounds)]
