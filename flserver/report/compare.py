"""Runs beside each other: what was set and told otherwise, how they went, their curves, what is not known of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flserver.record.comparison import BESIDE_SETTINGS, PLACE, Measured, settings_beside
from flserver.record.told import Values, told_that_differs
from flserver.report import words
from flserver.report.charts import Series
from flserver.report.circumstances import setting_cell
from flserver.report.facts import NUMBERS_TOLD, Facts, option
from flserver.report.tables import Column, Table, table
from flserver.report.values import NONE, between, count, duration, listed, moment, real, share, size, text
from flserver.settings.server import SERVER_SETTINGS

NO_SETTING = frozenset(BESIDE_SETTINGS) - {setting.key for setting in SERVER_SETTINGS}
"""What says how a run came about without being an option."""
VALUES = 8  # of what one run's trainers told under one key


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """``names`` tell the runs apart; ``series`` and ``by_round`` are by what was measured. ``where`` are
    the settings of a run's place that differ, ``same`` counts the settings that do not."""

    runs: Sequence[Facts]
    names: Sequence[str]
    figures: Table
    differing: Table
    where: str
    same: int
    told: Table
    told_notes: Sequence[str]
    unknown: Sequence[str]
    series: Mapping[str, Sequence[Series]]
    by_round: Mapping[str, Table]


def compare(runs: Sequence[Facts]) -> Comparison:
    """What is to be said of several runs together."""
    names = _names(runs)
    series, by_round = {}, {}
    for name in ("accuracy", "loss"):
        found = [facts.measured(name) for facts in runs]
        if any(found):
            series[name] = [
                Series(label=label, values=values) for label, values in zip(names, found, strict=True) if values
            ]
            by_round[name] = _by_round(name, names, found)
    differing, same = settings_beside([facts.run for facts in runs])
    cells = {
        key: [_setting(facts, key, value) for facts, value in zip(runs, values, strict=True)]
        for key, values in differing.items()
    }
    columns: list[Column] = [("setting", "code"), *((name, "text") for name in names)]
    return Comparison(
        runs=runs,
        names=names,
        figures=_figures(runs, names),
        differing=table("In each run", columns, [[option(k), *cells[k]] for k in cells if k not in PLACE]),
        where="; ".join(f"{option(key)} {', '.join(cells[key])}" for key in cells if key in PLACE),
        same=same,
        told=_told(runs, names),
        told_notes=_told_notes(runs, names),
        series=series,
        by_round=by_round,
        unknown=_unknown(runs, names, differing),
    )


def _told(runs: Sequence[Facts], names: Sequence[str]) -> Table:
    columns: list[Column] = [("told", "code"), *((name, "text") for name in names)]
    differing = told_that_differs([facts.told for facts in runs])
    rows = [[text(key, 60), *map(_values, values)] for key, values in differing.items()]
    return table("By the trainers of each run", columns, rows)


def _values(told: Values) -> str:
    plain = [value if isinstance(value, str) else json.dumps(value) for value in told.values[:VALUES]]
    shown = ", ".join(text(value, 60) for value in plain)
    return (shown if told.distinct <= VALUES else f"{shown} and {told.distinct - VALUES} more") or NONE


def _told_notes(runs: Sequence[Facts], names: Sequence[str]) -> list[str]:
    """What is to be said of trainers that told nothing, and of what is left out."""
    silent = [name for name, facts in zip(names, runs, strict=True) if not (facts.told or facts.told_left_out)]
    said = []
    if len(silent) == len(runs):
        said.append("They told nothing: trainers’ own settings, such as a learning rate, are not on record.")
    elif silent:
        said.append(f"Of {listed(silent)} trainers’ own settings are not on record: they told nothing.")
    if any(facts.told_left_out for facts in runs):
        said.append(
            f"Only the numbers {listed(list(NUMBERS_TOLD))} are shown; the others that trainers told are left out."
        )
    return said


def _unknown(runs: Sequence[Facts], names: Sequence[str], differing: Mapping[str, object]) -> list[str]:
    """What the record does not say of the runs together, then of some or all of them."""
    said = ["What made the difference: the record says what was set and told, and not what came of which."]
    if {"eval_data", "evaluate"} & differing.keys():
        said.append("Whether their accuracies and losses are of the same kind: they were not measured in the same way.")
    of: dict[str, list[str]] = {}
    for name, facts in zip(names, runs, strict=True):
        for line in words.unknown(facts):
            of.setdefault(line, []).append(name)
    return said + [line if len(which) == len(runs) else f"Of {listed(which)}: {line}" for line, which in of.items()]


def _names(runs: Sequence[Facts]) -> list[str]:
    """The runs' names; with the run_id where two have the same."""
    names = [text(facts.run["name"], 40) for facts in runs]
    return [
        name
        if names.count(name) == 1
        else f"{name} ({text(facts.run['run_id'])})"
        if name != facts.run["run_id"]
        else name
        for name, facts in zip(names, runs, strict=True)
    ]


def _setting(facts: Facts, key: str, value: Any) -> str:
    return text(value) if key in NO_SETTING else setting_cell(facts, key, value)


def _by_round(name: str, names: Sequence[str], found: Sequence[Mapping[int, float]]) -> Table:
    numbers = sorted({number for values in found for number in values})
    columns: list[Column] = [("round", "number"), *((label, "number") for label in names)]
    rows = ([str(number), *(real(values.get(number)) for values in found)] for number in numbers)
    return table(f"The {name} by round", columns, rows)


def _cell(made: Measured | None, name: str, best: bool) -> str:
    value = None if made is None else getattr(made, name)
    if made is None or value is None:
        return NONE
    shown = share(value) if name == "accuracy" else real(value)
    return f"{shown} (round {made.round})" if best else shown


def _figures(runs: Sequence[Facts], names: Sequence[str]) -> Table:
    def line(label: str, cells: Sequence[str]) -> list[str]:
        return [label, *cells]

    def measured(name: str, best: bool) -> list[str]:
        return [_cell(side.best if best else side.last, name, best) for side in sides]

    sides = [facts.side for facts in runs]
    updates = [sum(row["n"] for row in facts.updates) for facts in runs]
    spent = [duration(between(facts.run["started_at"], facts.run["ended_at"] or facts.moment.at)) for facts in runs]
    rows = [
        line("run", [text(facts.run["run_id"]) for facts in runs]),
        line("status", [text(facts.status) for facts in runs]),
        line("began (UTC)", [moment(facts.run["started_at"]) for facts in runs]),
        line("lasted", spent),
        line("median of a round", [duration(side.seconds) for side in sides]),
        line("rounds", [f"{side.rounds_committed} of {side.num_rounds}" for side in sides]),
        line("last accuracy", measured("accuracy", False)),
        line("best accuracy", measured("accuracy", True)),
        line("last loss", measured("loss", False)),
        line("loss of the best", measured("loss", True)),
        line("clients that registered", [count(side.clients) for side in sides]),
        line(
            "updates accepted", [f"{side.updates_accepted:,} of {n:,}" for side, n in zip(sides, updates, strict=True)]
        ),
        line("attempts aborted", [count(sum(row["status"] == "aborted" for row in facts.attempts)) for facts in runs]),
        line("updates received", [size(facts.bytes[0]) for facts in runs]),
        line("models sent", [size(facts.bytes[1]) for facts in runs]),
        line("last model", [text(facts.last["model_digest"], 16) if facts.last else NONE for facts in runs]),
    ]
    columns: list[Column] = [("", "text"), *((name, "text") for name in names)]
    return table("What came of each", columns, rows)
