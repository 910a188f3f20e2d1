"""What was measured, on which machine, as a table, as JSON, and beside an earlier run's."""

import importlib.metadata
import json
import os
import platform
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OK, SHORT, UNKNOWN = "ok", "SHORT", "not measured"
LIBRARIES = ("torch", "numba", "numpy", "blake3", "sqlalchemy")
WIDTHS = (11, 44, 12, 11)  # of the row's name, what is measured, its value, and what is to be reached


@dataclass(frozen=True)
class Figure:
    """One number of a row. ``most`` or ``least`` is what is to be reached; neither: for information.

    ``value`` is None where it could not be measured, and ``unit`` then says why.
    """

    what: str
    value: float | None
    unit: str = ""
    most: float | None = None
    least: float | None = None

    @property
    def verdict(self) -> str:
        """OK, SHORT, UNKNOWN, or nothing where nothing is to be reached."""
        if self.most is None and self.least is None:
            return ""
        if self.value is None:
            return UNKNOWN
        reached = (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)
        return OK if reached else SHORT

    @property
    def goal(self) -> str:
        if self.most is not None:
            return f"≤ {self.most:g}"
        return f"≥ {self.least:g}" if self.least is not None else ""

    def as_json(self) -> dict[str, object]:
        bounds = {name: bound for name, bound in (("most", self.most), ("least", self.least)) if bound is not None}
        return {"value": self.value, "unit": self.unit, **bounds, "verdict": self.verdict}


def shown(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return f"{value:.4g} {unit}".rstrip() if abs(value) < 1000 else f"{value:.0f} {unit}".rstrip()


def machine() -> dict[str, object]:
    """What figures depend on, besides what is measured."""
    versions: dict[str, object] = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "memory_gib": round(pages * page / 2**30),
        "system": platform.platform(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **versions,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


class Report:
    """The rows of one run of the benchmark; ``then`` is an earlier one's, as JSON has it."""

    def __init__(self, then: dict[str, Any] | None = None) -> None:
        self.machine = machine()
        self.rows: dict[str, list[Figure]] = {}
        self.failed: dict[str, str] = {}
        self._then = then

    @classmethod
    def beside(cls, path: Path | None) -> "Report":
        """One that is compared with the file of ``--json``. Raises OSError, ValueError."""
        then = None if path is None else json.loads(path.read_text())
        if then is not None and not {"machine", "rows"} <= set(then):
            raise ValueError("it is no file of --json")
        return cls(then)

    def head(self) -> str:
        """The machine, where it differs from then, and the table's first line."""
        lines = ["  ".join(f"{name} {value}" for name, value in self.machine.items())]
        if self._then is not None:
            before = self._then["machine"]
            differs = [f"{k} {before.get(k)} → {v}" for k, v in self.machine.items() if before.get(k) != v]
            if differs:
                lines.append(f"WARNING: then it was another machine, compare ratios only: {'; '.join(differs)}")
        return "\n".join([*lines, self._line("row", "what", "now", "to reach", "", ("then", "change"))])

    def add(self, name: str, figures: Iterable[Figure]) -> str:
        """Keep a row. Returns its lines."""
        self.rows[name] = list(figures)
        lines = []
        for index, one in enumerate(self.rows[name]):
            first = "" if index else name
            value = shown(one.value, one.unit) if one.value is not None else one.unit
            lines.append(self._line(first, one.what, value, one.goal, one.verdict, self._before(name, one)))
        return "\n".join(lines)

    def fail(self, name: str, why: str) -> str:
        """Keep that a row could not be measured. Returns its lines."""
        self.failed[name] = why
        return self._line(name, why.partition("\n")[0], "", "", "FAILED", ("", ""))

    def end(self) -> str:
        """What falls short."""
        verdicts = [(name, one.verdict) for name, figures in self.rows.items() for one in figures]
        short = sorted({name for name, verdict in verdicts if verdict == SHORT})
        unknown = sorted({name for name, verdict in verdicts if verdict == UNKNOWN} | set(self.failed))
        ends = [f"{what}: {', '.join(names)}" for what, names in ((SHORT, short), (UNKNOWN, unknown)) if names]
        return "; ".join(ends) or "every row at or under its figure"

    @property
    def falls_short(self) -> bool:
        return any(one.verdict == SHORT for figures in self.rows.values() for one in figures)

    def as_json(self) -> dict[str, object]:
        rows = {name: {one.what: one.as_json() for one in figures} for name, figures in self.rows.items()}
        return {"machine": self.machine, "rows": rows, "failed": self.failed}

    def _before(self, name: str, figure: Figure) -> tuple[str, str]:
        found = (self._then or {"rows": {}})["rows"].get(name, {}).get(figure.what)
        if found is None or found["value"] is None:
            return "–", ""
        then = float(found["value"])
        change = f"{100 * (figure.value / then - 1):+.0f} %" if figure.value is not None and then else ""
        return shown(then, found["unit"]), change

    def _line(self, name: str, what: str, value: str, goal: str, verdict: str, before: tuple[str, str]) -> str:
        cells = [f"{text:<{width}}" for text, width in zip((name, what, value, goal), WIDTHS, strict=True)]
        if self._then is not None:
            cells += [f"{before[0]:<{WIDTHS[2]}}", f"{before[1]:>7} "]
        return " ".join([*cells, verdict]).rstrip()
