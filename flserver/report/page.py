"""The page: facts, tables and charts in one HTML file without a script, which may load nothing."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flserver.report import charts, circumstances, figures, tables, troubles, values, words
from flserver.report.compare import Comparison, compare
from flserver.report.facts import Facts
from flserver.report.figures import Figure

TEMPLATES = Path(__file__).with_name("templates")


def page(facts: Sequence[Facts]) -> str:
    """The report on one run, or a comparison of several, as HTML."""
    if len(facts) == 1:
        return _render("report.html", **_report(facts[0]))
    return _render("compare.html", **_compared(compare(facts)))


def _report(facts: Facts) -> dict[str, Any]:
    run = facts.run
    return {
        "title": values.text(run["name"], 80),
        "facts": facts,
        "run": run,
        "summary": words.summary(facts),
        "tiles": _tiles(facts),
        "troubles": troubles.lines(facts),
        "chosen": circumstances.settings(facts, "Settings that differ from the defaults", circumstances.chosen),
        "all_settings": circumstances.settings(facts, "All settings in force", lambda key, value: True),
        "overrides": circumstances.overrides(facts),
        "trainers": circumstances.trainers(facts),
        "trainers_notes": circumstances.trainers_notes(facts),
        "processes": circumstances.processes(facts),
        "nodes": circumstances.nodes(facts),
        "acts": circumstances.acts(facts),
        "learning": figures.learning(facts),
        "times": figures.times(facts),
        "clients": figures.clients(facts),
        "norms": figures.norms(facts),
        "weights": figures.weights(facts),
        "refusals": [
            made
            for made in (
                troubles.attempts_table(facts),
                troubles.decisions_table(facts),
                troubles.registrations_table(facts),
                troubles.messages_table(facts),
                troubles.strangers_table(facts),
            )
            if made.rows
        ],
        "checkpoints": tables.checkpoints(facts),
        "people": circumstances.people(facts) if facts.personal else None,
        "unknown": words.unknown(facts),
        "commands": _commands(facts),
    }


def _compared(found: Comparison) -> dict[str, Any]:
    drawn = [
        Figure(
            name=f"compare-{name}",
            title=f"{name.capitalize()} by round",
            shows=f"The {name} of each run's global models by round, each run with a dash and a mark of its own.",
            drawn=charts.curves(f"compare-{name}", name, series, legend=False),
            tables=[found.by_round[name]],
            legend=[
                (charts.sample(place), one.label, same)
                for place, (one, same) in enumerate(zip(series, charts.same_as(series), strict=True))
            ],
        )
        for name, series in found.series.items()
    ]
    return {"title": f"{len(found.runs)} runs", "found": found, "figures": drawn, "facts": found.runs[0]}


def _tiles(facts: Facts) -> list[tuple[str, str, str]]:
    """The figures that come first: what, how much, and a remark."""
    last, best, run = facts.last, facts.best, facts.run
    accepted = sum(row["n"] for row in facts.updates if row["decision"] == "accepted")
    tiles = [("rounds", f"{run['rounds_committed']:,}", f"of {run['num_rounds']:,}")]
    for name, shown in (("accuracy", values.share), ("loss", values.real)):
        number = None if last is None else facts.measured(name).get(last["round"])
        if number is not None:
            remark = (
                f"best {shown(best[name])}, round {best['round']}"
                if best is not None and best[name] is not None
                else ""
            )
            tiles.append((name, shown(number), remark))
    tiles.append(("clients", values.count(facts.answered), f"answered of {len(facts.participation.clients):,} invited"))
    tiles.append(("updates", values.count(accepted), f"accepted of {sum(row['n'] for row in facts.updates):,}"))
    end = run["ended_at"] or facts.moment.at
    span = f"from {values.moment(run['started_at'])}" + ("" if run["ended_at"] else " to the last event")
    tiles.append(("lasted", values.duration(values.between(run["started_at"], end)), span))
    return tiles


def _commands(facts: Facts) -> list[tuple[str, str]]:
    """What to type, and what it shows."""
    db, run = facts.db, facts.ref
    typed = [(f"flserver --db {db} verify", "holds every row and every checkpoint against the chain of events")]
    if facts.last is not None:
        number = facts.last["round"]
        typed.append(
            (
                f"flserver --db {db} export-model {run} --round {number} --out model.safetensors",
                f"writes the last model after its digest was checked: {facts.last['model_digest']}",
            )
        )
        if facts.last["checkpoint_deleted_at"] is None:
            name = values.word(facts.last["checkpoint"])
            typed.append((f"sha256sum {name}", "in the checkpoint directory: the digest again, by an ordinary tool"))
    typed.append(
        (
            f'flserver --db {db} query "SELECT digest FROM v1_events WHERE seq = {facts.moment.seq}"',
            f"the record's chain head, which this page was made of (evidence has a tree head): {facts.moment.digest}",
        )
    )
    return typed


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"text": values.text, "moment": values.moment, "word": values.word}
    return made


def _where_it_is(facts: Facts) -> str:
    """What the commands have in the place of a folder or a machine, where they have something."""
    stands = "PATH/TO" if "PATH/TO/" in facts.db else "USER@HOST" if "USER@HOST/" in facts.db else None
    return "" if facts.personal or stands is None else f" ({stands} stands for where it is, which is left out here)"


def _render(template: str, **what: Any) -> str:
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    return (
        _environment()
        .get_template(template)
        .render(style=Markup(style), policy=policy, left_out=_where_it_is(what["facts"]), **what)
    )
