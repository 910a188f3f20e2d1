"""Runs beside each other: what was set otherwise, how they went, their curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flserver.report.charts import Series
from flserver.report.circumstances import setting_cell
from flserver.report.facts import Facts
from flserver.report.tables import Column, Table, table
from flserver.report.values import NONE, between, count, duration, moment, real, share, size, text
from flserver.store.reader import Row


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """``names`` tell the runs apart; ``series`` and ``by_round`` are by what was measured."""

    runs: Sequence[Facts]
    names: Sequence[str]
    figures: Table
    differing: Table
    same: int
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
    keys = sorted({key for facts in runs for key in facts.settings} | {"model", "strategy", "seed", "num_rounds"})
    cells = {key: [_setting(facts, key) for facts in runs] for key in keys}
    differing = [key for key in keys if len({_plain(facts, key) for facts in runs}) > 1]
    columns: list[Column] = [("setting", "code"), *((name, "text") for name in names)]
    rows = [[f"--{text(key, 60).replace('_', '-')}", *cells[key]] for key in differing]
    return Comparison(
        runs=runs,
        names=names,
        figures=_figures(runs, names),
        differing=table("Settings that differ", columns, rows),
        same=len(keys) - len(differing),
        series=series,
        by_round=by_round,
    )


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


def _setting(facts: Facts, key: str) -> str:
    return setting_cell(facts, key, facts.settings.get(key, facts.run.get(key)))


def _plain(facts: Facts, key: str) -> str:
    return repr(facts.settings.get(key, facts.run.get(key)))


def _by_round(name: str, names: Sequence[str], found: Sequence[Mapping[int, float]]) -> Table:
    numbers = sorted({number for values in found for number in values})
    columns: list[Column] = [("round", "number"), *((label, "number") for label in names)]
    rows = ([str(number), *(real(values.get(number)) for values in found)] for number in numbers)
    return table(f"The {name} by round", columns, rows)


def _cell(row: Row | None, name: str, best: bool) -> str:
    if row is None or row[name] is None:
        return NONE
    shown = share(row[name]) if name == "accuracy" else real(row[name])
    return f"{shown} (round {row['round']})" if best else str(shown)


def _figures(runs: Sequence[Facts], names: Sequence[str]) -> Table:
    def line(label: str, cells: Sequence[str]) -> list[str]:
        return [label, *cells]

    def measured(name: str, best: bool) -> list[str]:
        rows = [facts.best if best else facts.last for facts in runs]
        return [_cell(row, name, best) for row in rows]

    updates = [sum(row["n"] for row in facts.updates) for facts in runs]
    accepted = [sum(row["n"] for row in facts.updates if row["decision"] == "accepted") for facts in runs]
    spent = [duration(between(facts.run["started_at"], facts.run["ended_at"] or facts.moment.at)) for facts in runs]
    rows = [
        line("run", [text(facts.run["run_id"]) for facts in runs]),
        line("status", [text(facts.run["status"]) for facts in runs]),
        line("began (UTC)", [moment(facts.run["started_at"]) for facts in runs]),
        line("lasted", spent),
        line("rounds", [f"{facts.run['rounds_committed']} of {facts.run['num_rounds']}" for facts in runs]),
        line("last accuracy", measured("accuracy", False)),
        line("best accuracy", measured("accuracy", True)),
        line("last loss", measured("loss", False)),
        line("loss of the best", measured("loss", True)),
        line("clients", [count(len(facts.participation.clients)) for facts in runs]),
        line("updates accepted", [f"{a:,} of {n:,}" for a, n in zip(accepted, updates, strict=True)]),
        line("attempts aborted", [count(sum(row["status"] == "aborted" for row in facts.attempts)) for facts in runs]),
        line("updates received", [size(facts.bytes[0]) for facts in runs]),
        line("models sent", [size(facts.bytes[1]) for facts in runs]),
        line("last model", [text(facts.last["model_digest"], 24) if facts.last else NONE for facts in runs]),
    ]
    columns: list[Column] = [("", "text"), *((name, "text") for name in names)]
    return table("How they went", columns, rows)
