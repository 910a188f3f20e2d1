"""The command that holds runs beside each other."""

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING, Any

import click

from flserver.cli.common import database, db_option, json_option, reader, runs_argument, say_json
from flserver.cli.sparkline import places, sparkline
from flserver.cli.tables import say, terminal_width
from flserver.errors import UsageError
from flserver.settings.places import Place
from flserver.text import json_text, printable

if TYPE_CHECKING:
    from flserver.record.comparison import Comparison, Curve, Measured, Side
    from flserver.record.told import Values

CURVES = ("loss", "accuracy")
LABEL = 24  # cells of a run's name before its curve
VALUES = 8  # of what one run's trainers told under one key
FACTS = (
    *("run_id", "status", "rounds_committed", "num_rounds", "clients", "updates_accepted", "median_seconds"),
    *("best_round", "best_loss", "best_accuracy", "last_round", "last_loss", "last_accuracy"),
)


@click.command("compare")
@runs_argument
@json_option
@db_option
@click.pass_context
def compare(ctx: click.Context, runs: tuple[str, ...], as_json: bool, db: str | None) -> None:
    """Compare two runs or more: what was settled differently, what their trainers told, how they learned, their best
    rounds, their times. A run's best round is the one of the highest accuracy, else of the lowest loss; best_loss and
    best_accuracy are that round's.

    For example: flserver --db runs.sqlite compare first-run newest
    """
    from flserver.record.comparison import compare as compared
    from flserver.record.comparison import different_runs

    if len(runs) < 2:
        raise UsageError("compare takes two runs or more: flserver compare RUN RUN")
    record = reader(ctx, db)
    found = compared(record, different_runs(record, runs))
    if as_json:
        say_json(found)
    else:
        _tell(found, database(ctx, db))


def _tell(found: "Comparison", place: Place) -> None:
    from flserver.record.comparison import PLACE
    from flserver.store.database import at

    shown = at(place).status_shown
    found = replace(found, runs=tuple(replace(run, status=shown(run.status, run.run_id)) for run in found.runs))
    names = labels(found.runs)
    say(("run", *names), [*zip(FACTS, *map(_facts, found.runs), strict=True)], "table")
    click.echo(f"\nsettings that differ ({found.equal} are the same)")
    if not found.differing:
        click.echo("nothing differs")
    where = {name: values for name, values in found.differing.items() if name in PLACE}
    rows = [[name, *map(_setting, values)] for name, values in found.differing.items() if name not in where]
    if rows:
        say(("setting", *names), rows, "table")
    if where:
        click.echo(
            f"{'and' if rows else 'only'} where it ran: "
            + "; ".join(f"{name} {_beside(each)}" for name, each in where.items())
        )
    _tell_told(found, names)
    for curve in CURVES:
        for line in curve_lines(curve, names, [getattr(run, curve) for run in found.runs], terminal_width()):
            click.echo(line)


def _tell_told(found: "Comparison", names: Sequence[str]) -> None:
    click.echo("\nwhat trainers told that differs")
    if len(found.silent) == len(found.runs):
        click.echo("(they told nothing: their own settings, such as a learning rate, are not on record)")
        return
    if found.told:
        rows = [[printable(key, 60), *map(_values, values)] for key, values in found.told.items()]
        say(("told", *names), rows, "table")
    elif not found.silent:
        click.echo("nothing: they told the same")
    for name, run in zip(names, found.runs, strict=True):
        if run.run_id in found.silent:
            click.echo(f"(of {name} trainers' own settings are not on record: they told nothing)")


def labels(runs: "Sequence[Side]") -> list[str]:
    """What each run is called here: its name, and its run_id where it shares that with another one."""
    names = [run.name for run in runs]
    return [printable(run.name) if names.count(run.name) == 1 else run.run_id for run in runs]


def curve_lines(title: str, names: Sequence[str], curves: "Sequence[Curve]", width: int) -> list[str]:
    """A sparkline for each run, all on one scale and with the same round below each other; nothing where none of them
    was measured."""
    values = [value for curve in curves for value in curve.values() if value is not None and isfinite(value)]
    if not values:
        return []
    shown = [printable(name, LABEL) for name in names]
    indent = max(map(len, shown)) + 2
    low, high, last = min(values), max(values), max(max(curve, default=0) for curve in curves)
    groups = places(0, last, width - indent)
    each = "" if len(groups) == last + 1 else f", up to {max(map(len, groups))} a mark"
    lines = ["", f"{title}: {low:.4g} to {high:.4g}, rounds 0 to {last}{each}"]
    for name, curve in zip(shown, curves, strict=True):
        lines.append(name.ljust(indent) + sparkline(curve, groups, low, high).rstrip())
    return lines


def _facts(run: "Side") -> list[Any]:
    made = [run.rounds_committed, run.num_rounds, run.clients, run.updates_accepted, run.seconds]
    return [run.run_id, run.status, *made, *_told(run.best), *_told(run.last)]


def _told(measured: "Measured | None") -> tuple[Any, ...]:
    return (None, None, None) if measured is None else (measured.round, measured.loss, measured.accuracy)


def _beside(values: Sequence[Any]) -> str:
    return ", ".join(printable(_setting(value)) or "-" for value in values)


def _values(told: "Values") -> str:
    shown = ", ".join(printable(_setting(value), 60) for value in told.values[:VALUES])
    return shown if told.distinct <= VALUES else f"{shown} and {told.distinct - VALUES} more"


def _setting(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json_text(value)
