"""The figures of a report on one run: a picture, what it shows, and the tables that say the same."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from flserver.events.words import PHASES
from flserver.report import charts, picture, tables, values
from flserver.report.charts import Series
from flserver.report.facts import Facts
from flserver.report.states import STATES
from flserver.report.tables import Table

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


def learning(facts: Facts) -> list[Figure]:
    figures = []
    for name in ("accuracy", "loss"):
        own = facts.measured(name)
        theirs = facts.metrics.get((name, "clients"), {})
        series = [Series(label="here", values=own)] if own else []
        series += [Series(label="at the clients", values=theirs)] if theirs else []
        if not series:
            continue
        best = facts.best
        ring = None if best is None or best[name] is None else (best["round"], best[name])
        shows = f"The {name} of each round's global model"
        shows += ", measured by the server" if own else ""
        same = charts.same_as(series)[-1]
        shows += (" and, " if own else ", ") + "as the clients measured it, averaged over them" if theirs else ""
        figures.append(
            Figure(
                name=f"chart-{name}",
                title=f"{name.capitalize()} by round",
                shows=f"{shows}.{' The two lines are the same.' if same else ''}"
                f"{' The ring is the best round.' if ring else ''}",
                drawn=charts.curves(f"chart-{name}", name, series, ring),
                tables=[],
            )
        )
    if figures:
        figures[-1] = Figure(**{**vars(figures[-1]), "tables": [tables.learning(facts)]})
    return figures


def times(facts: Facts) -> Figure | None:
    made = [row for row in facts.committed if row["round"]]
    if not made:
        return None
    parts = {phase: [row[f"{phase}_seconds"] or 0.0 for row in made] for phase in PHASES}
    whole = sum(row["seconds"] for row in made) or 1.0
    shares = ", ".join(f"{phase} {values.share(sum(parts[phase]) / whole)}" for phase in PHASES if any(parts[phase]))
    shown: dict[str, list[float]] = {phase: parts[phase] for phase in PHASES if any(parts[phase])}
    return Figure(
        name="chart-times",
        title="Where each round's time went",
        shows=f"Seconds of each committed round by what they were spent on; of all of them together: {shares}. "
        "wait is waiting for updates: training and sending.",
        drawn=charts.stacked("chart-times", "seconds", [row["round"] for row in made], shown),
        tables=[tables.times(facts)],
        wide=True,
    )


def clients(facts: Facts) -> list[Figure]:
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
    note += " What is rare is drawn wide enough to be seen." if drawn.columns > 400 else ""
    note += f" A column is {drawn.block} rounds, and shows the gravest of them." if drawn.block > 1 else ""
    figures = [
        Figure(
            name="picture-states",
            title="Who took part, and what came of it",
            shows=f"A row for each client, a column for each round; a cell's colour and shape say what came.{note}",
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


def norms(facts: Facts) -> Figure | None:
    known = [(made.round, made.norms) for made in facts.participation.rounds if made.norms is not None]
    if not known:
        return None
    return Figure(
        name="chart-norms",
        title="How far updates were from the model sent",
        shows="L2 norm of each round's accepted updates: the median, the middle half as a band, least and largest.",
        drawn=charts.spread("chart-norms", "L2 norm", [round for round, _ in known], [norms for _, norms in known]),
        tables=[tables.norms_by_client(facts), tables.norms_by_round(facts)],
    )


def weights(facts: Facts) -> Figure | None:
    made = len([row for row in facts.committed if row["round"]])
    ranked = sorted(facts.participation.clients, key=lambda client: -(client.row["weight"] or 0))
    heavy = [client for client in ranked[:HEAVIEST] if client.row["weight"]]
    if not made or not heavy:
        return None
    places = [(picture.short(client.client_id, 14), client.row["weight"] / made) for client in heavy]
    rest = len([client for client in ranked if client.row["weight"]]) - len(heavy)
    return Figure(
        name="chart-weights",
        title="Whose updates the models are made of",
        shows="A client's weights, summed over the run's committed rounds and divided by their number"
        + (f"; the {len(heavy)} that weigh most of {len(heavy) + rest}." if rest else "."),
        drawn=charts.bars("chart-weights", "share of the run", places),
        tables=[tables.weights_by_client(facts), tables.weights_by_round(facts)],
    )
