"""The tables of a report: every picture has one by round or by client."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from flserver.events.words import PHASES
from flserver.report.facts import Facts
from flserver.report.states import STATES
from flserver.report.values import (
    NONE,
    count,
    moment,
    real,
    seconds,
    share,
    size,
    text,
)
from flserver.store.reader import Row

FIRST, LAST = 100, 1000  # rows that a long table keeps
Kind = Literal["text", "number", "time", "code"]
Column = tuple[str, Kind]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells under ``columns``; the first cell of each heads its row. ``left_out`` rows are asked for by
    ``query``."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    left_out: int = 0
    query: str = ""


def table(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[str]], query: str = "") -> Table:
    found = list(rows)
    left_out = len(found) - FIRST - LAST
    if left_out > 0:
        found = found[:FIRST] + found[-LAST:]
    return Table(caption=caption, columns=columns, rows=found, left_out=max(0, left_out), query=query)


def numbers(*labels: str) -> list[Column]:
    return [(label, "number") for label in labels]


def _ask(facts: Facts, what: str) -> str:
    return f"flserver --db {facts.db} query \"SELECT {what} WHERE run_id = '{facts.ref}'\""


# --- by round -------------------------------------------------------------------------------------------------------


def learning(facts: Facts) -> Table:
    """Every number about the global models."""
    names = [key for key in facts.metrics if key not in (("loss", "evaluate"), ("accuracy", "evaluate"))]
    labels = [f"{text(name, 40)} ({'clients’ mean' if source == 'clients' else source})" for name, source in names]

    measured = [facts.measured(name) for name in ("accuracy", "loss")]

    def row(made: Row) -> list[str]:
        number = made["round"]
        own = [values.get(number) for values in measured]
        others = [facts.metrics[key].get(number) for key in names]
        return [str(number), *map(real, own), *map(real, others)]

    columns = [("round", "number"), *numbers("accuracy", "loss", *labels)]
    return table(
        "Accuracy and loss by round", columns, map(row, facts.committed), _ask(facts, "* FROM v1_round_metrics")
    )


def times(facts: Facts) -> Table:
    """Where each attempt's time went."""
    columns = [*numbers("round", "attempt"), ("ended", "text"), *numbers("seconds", *PHASES)]
    rows = (
        [str(row["round"]), str(row["attempt"]), row["status"], *(seconds(row[key]) for key in ("seconds", *_PARTS))]
        for row in facts.attempts
    )
    return table("Seconds by attempt", columns, rows, _ask(facts, "round, attempt, seconds FROM v1_rounds"))


_PARTS = tuple(f"{phase}_seconds" for phase in PHASES)


def participation_by_round(facts: Facts) -> Table:
    columns = [
        ("round", "number"),
        *numbers(*(state.label for state in STATES), "median s", "longest s"),
        ("slowest", "text"),
    ]
    rows = (
        [
            str(made.round),
            *(str(made.states[number]) if made.states[number] else "·" for number in range(len(STATES))),
            seconds(made.median_seconds),
            *((NONE, NONE) if made.slowest is None else (seconds(made.slowest[1]), text(made.slowest[0], 60))),
        ]
        for made in facts.participation.rounds
    )
    return table("What came of the clients, by round", columns, rows, _ask(facts, "* FROM v1_client_rounds"))


def norms_by_round(facts: Facts) -> Table:
    columns = [("round", "number"), *numbers("least", "lower quartile", "median", "upper quartile", "largest")]
    rows = ([str(made.round), *map(real, made.norms)] for made in facts.participation.rounds if made.norms is not None)
    query = _ask(facts, "round, client_id, update_norm FROM v1_client_rounds")
    return table("Update norms by round", columns, rows, query)


def weights_by_round(facts: Facts) -> Table:
    columns = [
        ("round", "number"),
        *numbers("updates", "largest weight"),
        ("whose", "text"),
        ("effective clients", "number"),
    ]
    rows = (
        [
            str(made.round),
            count(made.states[0]),
            share(made.heaviest[1]),
            text(made.heaviest[0], 60),
            real(made.effective, 3),
        ]
        for made in facts.participation.rounds
        if made.heaviest is not None
    )
    query = _ask(facts, "round, client_id, weight FROM v1_client_rounds")
    return table("Weights by round; effective clients are 1 / Σ weight²", columns, rows, query)


def checkpoints(facts: Facts) -> Table:
    columns: list[Column] = [
        ("round", "number"),
        ("digest of the model", "code"),
        ("file", "code"),
        ("size", "number"),
        ("deleted", "time"),
    ]
    rows = (
        [
            str(row["round"]),
            text(row["model_digest"]),
            text(str(row["checkpoint"]).rpartition("/")[2]),
            size(row["checkpoint_bytes"]),
            moment(row["checkpoint_deleted_at"]),
        ]
        for row in facts.committed
    )
    return table("Checkpoints", columns, rows, _ask(facts, "round, model_digest, checkpoint FROM v1_rounds"))


# --- by client ------------------------------------------------------------------------------------------------------


def participation_by_client(facts: Facts) -> Table:
    columns: list[Column] = [("client", "text"), *numbers(*(state.label for state in STATES), "mean s", "longest s")]
    columns += numbers("sent in", "sent out")
    rows = (
        [
            text(client.client_id),
            *(str(client.states[number]) if client.states[number] else "·" for number in range(len(STATES))),
            seconds(client.row["mean_seconds"]),
            seconds(client.row["max_seconds"]),
            size(client.row["bytes_in"]),
            size(client.row["bytes_out"]),
        ]
        for client in facts.participation.clients
    )
    return table("What came of the rounds, by client", columns, rows, _ask(facts, "* FROM v1_client_rounds"))


def norms_by_client(facts: Facts) -> Table:
    columns: list[Column] = [("client", "text"), *numbers("accepted updates", "mean norm", "largest norm")]
    rows = (
        [
            text(client.client_id),
            count(client.row["accepted"]),
            real(client.row["mean_norm"]),
            real(client.row["max_norm"]),
        ]
        for client in facts.participation.clients
    )
    return table("Update norms by client", columns, rows, _ask(facts, "client_id, update_norm FROM v1_client_rounds"))


def weights_by_client(facts: Facts) -> Table:
    """Sorted by what each has of the run."""
    made = len([row for row in facts.committed if row["round"]]) or 1
    columns: list[Column] = [
        ("client", "text"),
        *numbers("samples told", "counted samples", "accepted updates", "share of the run", "largest share"),
    ]
    rows = (
        [
            text(client.client_id),
            count(client.row["data_size"]),
            count(client.row["counted_size"]),
            count(client.row["accepted"]),
            share((client.row["weight"] or 0) / made),
            share(client.row["max_weight"]),
        ]
        for client in sorted(facts.participation.clients, key=lambda client: -(client.row["weight"] or 0))
    )
    return table("Weights by client", columns, rows, _ask(facts, "client_id, weight FROM v1_client_rounds"))
