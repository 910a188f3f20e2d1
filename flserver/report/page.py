"""The page: facts, tables and charts in one HTML file without a script, which may load nothing."""

import base64
import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flserver.report import charts, picture, tables, troubles, values, words
from flserver.report.charts import Series
from flserver.report.compare import Comparison, compare
from flserver.report.facts import Facts
from flserver.report.states import STATES
from flserver.report.tables import PHASES, Table

TEMPLATES = Path(__file__).with_name("templates")
HEAVIEST = 15  # clients with a bar of their own


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture with its ``name`` (an id), what it shows, and the tables that say the same."""

    name: str
    title: str
    shows: str
    drawn: Markup
    tables: Sequence[Table]
    legend: Sequence[tuple[Markup, str, str]] = ()
    wide: bool = False


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
        "chosen": tables.settings(facts, "Settings that differ from the defaults", tables.chosen),
        "all_settings": tables.settings(facts, "All settings in force", lambda key, value: True),
        "overrides": tables.overrides(facts),
        "processes": tables.processes(facts),
        "acts": tables.acts(facts),
        "learning": _learning(facts),
        "times": _times(facts),
        "clients": _clients(facts),
        "norms": _norms(facts),
        "weights": _weights(facts),
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
        "people": tables.people(facts) if facts.personal else None,
        "unknown": words.unknown(facts),
        "commands": _commands(facts),
    }


def _compared(found: Comparison) -> dict[str, Any]:
    figures = [
        Figure(
            name=f"compare-{name}",
            title=f"{name.capitalize()} by round",
            shows=f"The {name} of each run's global models, round by round, each run with a dash and a mark of its own.",
            drawn=charts.curves(f"compare-{name}", name, series),
            tables=[found.by_round[name]],
        )
        for name, series in found.series.items()
    ]
    return {"title": f"{len(found.runs)} runs", "found": found, "figures": figures, "facts": found.runs[0]}


def _tiles(facts: Facts) -> list[tuple[str, str, str]]:
    """The figures that come first: what, how much, and a remark."""
    last, best, run = facts.last, facts.best, facts.run
    accepted = sum(row["n"] for row in facts.updates if row["decision"] == "accepted")
    tiles = [("rounds", f"{run['rounds_committed']:,}", f"of {run['num_rounds']:,}")]
    for name, shown in (("accuracy", values.share), ("loss", values.real)):
        if last is not None and last[name] is not None:
            remark = f"best {shown(best[name])}, round {best['round']}" if best is not None and best[name] is not None else ""
            tiles.append((name, shown(last[name]), remark))
    tiles.append(("clients", values.count(len(facts.participation.clients)), "took part"))
    tiles.append(("updates", values.count(accepted), f"accepted of {sum(row['n'] for row in facts.updates):,}"))
    end = run["ended_at"] or facts.moment.at
    tiles.append(("lasted", values.duration(values.between(run["started_at"], end)), f"from {values.moment(run['started_at'])}"))
    return tiles


def _learning(facts: Facts) -> list[Figure]:
    figures = []
    for name in ("accuracy", "loss"):
        own = {row["round"]: row[name] for row in facts.committed if row[name] is not None}
        own |= facts.metrics.get((name, "evaluate"), {})
        theirs = facts.metrics.get((name, "clients"), {})
        series = [Series(label="here", values=dict(sorted(own.items())))] if own else []
        series += [Series(label="at the clients", values=theirs)] if theirs else []
        if not series:
            continue
        best = facts.best
        ring = None if best is None or best[name] is None else (best["round"], best[name])
        shows = f"The {name} of each round's global model"
        shows += ", measured by the server" if own else ""
        shows += (" and, " if own else ", ") + "as the clients measured it, averaged over them" if theirs else ""
        figures.append(
            Figure(
                name=f"chart-{name}",
                title=f"{name.capitalize()} by round",
                shows=f"{shows}.{' The ring is the best round.' if ring else ''}",
                drawn=charts.curves(f"chart-{name}", name, series, ring),
                tables=[],
            )
        )
    if figures:
        figures[-1] = Figure(**{**vars(figures[-1]), "tables": [tables.learning(facts)]})
    return figures


def _times(facts: Facts) -> Figure | None:
    made = [row for row in facts.committed if row["round"]]
    if not made:
        return None
    parts = {phase: [row[f"{phase}_seconds"] or 0.0 for row in made] for phase in PHASES}
    whole = sum(row["seconds"] for row in made) or 1.0
    shares = ", ".join(f"{phase} {values.share(sum(parts[phase]) / whole)}" for phase in PHASES if any(parts[phase]))
    shown = {phase: parts[phase] for phase in PHASES if any(parts[phase])}
    return Figure(
        name="chart-times",
        title="Where each round's time went",
        shows=f"Seconds of each committed round by what they were spent on; of all of them together: {shares}.",
        drawn=charts.stacked("chart-times", "seconds", [row["round"] for row in made], shown),
        tables=[tables.times(facts)],
        wide=True,
    )


def _clients(facts: Facts) -> list[Figure]:
    drawn = facts.participation.picture
    if drawn is None:
        return []
    rows, slow = [], []
    for client in facts.participation.clients[: len(drawn.clients)]:
        counts = ", ".join(f"{STATES[state].label} {n:,}" for state, n in sorted(client.states.items()))
        rows.append(f"{values.text(client.client_id, 60)}: {counts}")
        mean, most = (values.seconds(client.row[key]) for key in ("mean_seconds", "max_seconds"))
        slow.append(f"{values.text(client.client_id, 60)}: {mean} s on average, {most} s at most")
    totals = [sum(made.states[number] for made in facts.participation.rounds) for number in range(len(STATES))]
    cut = len(facts.participation.clients) - len(drawn.clients)
    note = f" The first {len(drawn.clients)} clients are drawn; the table has all." if cut else ""
    note += f" A column is {drawn.block} rounds, and shows the gravest of them." if drawn.block > 1 else ""
    figures = [
        Figure(
            name="picture-states",
            title="Who took part, and what came of it",
            shows=f"A row for each client, a column for each round; colour and shape of a cell say what came of it.{note}",
            drawn=picture.states_picture(drawn, "picture-states", rows),
            tables=[tables.participation_by_client(facts), tables.participation_by_round(facts)],
            legend=[
                (picture.swatch(number), f"{state.label} {totals[number]:,}", state.meaning)
                for number, state in enumerate(STATES)
                if totals[number]
            ],
            wide=True,
        )
    ]
    cuts = picture.levels_of(drawn)
    if cuts:
        bounds = [0.0, *cuts]
        labels = [
            f"{charts.number(low)} to {charts.number(high)} s" for low, high in zip(bounds, cuts, strict=False)
        ] + [f"{charts.number(cuts[-1])} s and more"]
        step = drawn.block * -(-drawn.columns // picture.TIME_COLUMNS)
        slowest = f" A column is {step} rounds, and shows the slowest answer." if step > 1 else ""
        figures.append(
            Figure(
                name="picture-times",
                title="How long each took to answer",
                shows="From the model sent to the update received: the longer, the higher and the darker a cell. "
                f"The tables above have the seconds by client and by round.{slowest}",
                drawn=picture.times_picture(drawn, "picture-times", cuts, slow),
                tables=[],
                legend=[(picture.level_swatch(level), label, "") for level, label in enumerate(labels)],
                wide=True,
            )
        )
    return figures


def _norms(facts: Facts) -> Figure | None:
    known = [(made.round, made.norms) for made in facts.participation.rounds if made.norms is not None]
    if not known:
        return None
    return Figure(
        name="chart-norms",
        title="How far updates were from the model sent",
        shows="L2 norm of the accepted updates of each round: the median, the middle half as a band, least and largest.",
        drawn=charts.spread("chart-norms", "L2 norm", [round for round, _ in known], [norms for _, norms in known]),
        tables=[tables.norms_by_client(facts), tables.norms_by_round(facts)],
    )


def _weights(facts: Facts) -> Figure | None:
    made = len([row for row in facts.committed if row["round"]])
    ranked = sorted(facts.participation.clients, key=lambda client: -(client.row["weight"] or 0))
    heavy = [client for client in ranked[:HEAVIEST] if client.row["weight"]]
    if not made or not heavy:
        return None
    places = {f"{picture.short(client.client_id, 14)}{'​' * n}": client.row["weight"] / made for n, client in enumerate(heavy)}
    rest = len([client for client in ranked if client.row["weight"]]) - len(heavy)
    return Figure(
        name="chart-weights",
        title="Whose updates the models are made of",
        shows="A client's weights, summed over the run's committed rounds and divided by their number"
        + (f"; the {len(heavy)} that weigh most of {len(heavy) + rest}." if rest else "."),
        drawn=charts.bars("chart-weights", "share of the run", places),
        tables=[tables.weights_by_client(facts), tables.weights_by_round(facts)],
    )


def _commands(facts: Facts) -> list[tuple[str, str]]:
    """What to type, and what it shows."""
    db, run = shlex.quote(facts.database), facts.run["run_id"]
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
            name = shlex.quote(str(facts.last["checkpoint"]))
            typed.append((f"sha256sum {name}", "in the checkpoint directory: the digest again, by an ordinary tool"))
    typed.append(
        (
            f"flserver --db {db} query \"SELECT digest FROM v1_events WHERE seq = {facts.moment.seq}\"",
            f"the head of the record that this page was made of: {facts.moment.digest}",
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
    made.filters |= {"text": values.text, "moment": values.moment}
    return made


def _render(template: str, **what: Any) -> str:
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    return _environment().get_template(template).render(style=Markup(style), policy=policy, **what)
