"""The tables of a report: every picture has one by round or by client."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flserver.report.facts import Facts, details, is_default, shown_setting
from flserver.report.states import STATES
from flserver.report.values import (
    NONE,
    as_json,
    between,
    count,
    duration,
    moment,
    real,
    seconds,
    share,
    size,
    text,
)
from flserver.settings.server import SERVER_SETTINGS
from flserver.store.reader import Row

FIRST, LAST = 100, 1000  # rows that a long table keeps
PHASES = ("broadcast", "wait", "aggregate", "evaluate", "checkpoint")
WITHHELD = "left out"

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


def _numbers(*labels: str) -> list[Column]:
    return [(label, "number") for label in labels]


def _ask(facts: Facts, what: str) -> str:
    return f'flserver --db {facts.database} query "SELECT {what} WHERE run_id = \'{facts.run["run_id"]}\'"'


# --- by round ----------------------------------------------------------------------------------------------------------


def learning(facts: Facts) -> Table:
    """Every number about the global models."""
    names = [key for key in facts.metrics if key not in (("loss", "evaluate"), ("accuracy", "evaluate"))]
    labels = [f"{text(name, 40)} ({'clients’ mean' if source == 'clients' else source})" for name, source in names]

    def row(made: Row) -> list[str]:
        number = made["round"]
        own = [facts.metrics.get((name, "evaluate"), {}).get(number, made[name]) for name in ("accuracy", "loss")]
        others = [facts.metrics[key].get(number) for key in names]
        return [str(number), *map(real, own), *map(real, others)]

    columns = [("round", "number"), *_numbers("accuracy", "loss", *labels)]
    return table("Accuracy and loss by round", columns, map(row, facts.committed), _ask(facts, "* FROM v1_round_metrics"))  # type: ignore[arg-type]


def times(facts: Facts) -> Table:
    """Where each attempt's time went."""
    columns = [*_numbers("round", "attempt"), ("ended", "text"), *_numbers("seconds", *PHASES)]
    rows = (
        [str(row["round"]), str(row["attempt"]), row["status"], *(seconds(row[key]) for key in ("seconds", *_PARTS))]
        for row in facts.attempts
    )
    return table("Seconds by attempt", columns, rows, _ask(facts, "round, attempt, seconds FROM v1_rounds"))


_PARTS = tuple(f"{phase}_seconds" for phase in PHASES)


def participation_by_round(facts: Facts) -> Table:
    columns = [("round", "number"), *_numbers(*(state.label for state in STATES), "median s", "longest s"), ("slowest", "text")]
    rows = (
        [
            str(made.round),
            *(str(made.states[number]) if made.states[number] else "·" for number in range(len(STATES))),
            seconds(made.median_seconds),
            *((NONE, NONE) if made.slowest is None else (seconds(made.slowest[1]), text(made.slowest[0], 60))),
        ]
        for made in facts.participation.rounds
    )
    return table("What came of the clients, by round", columns, rows, _ask(facts, "* FROM v1_client_rounds"))  # type: ignore[arg-type]


def norms_by_round(facts: Facts) -> Table:
    columns = [("round", "number"), *_numbers("least", "lower quartile", "median", "upper quartile", "largest")]
    rows = ([str(made.round), *map(real, made.norms)] for made in facts.participation.rounds if made.norms is not None)
    query = _ask(facts, "round, client_id, update_norm FROM v1_client_rounds")
    return table("Update norms by round", columns, rows, query)  # type: ignore[arg-type]


def weights_by_round(facts: Facts) -> Table:
    columns = [("round", "number"), *_numbers("updates", "largest weight"), ("whose", "text"), ("as many as", "number")]
    rows = (
        [str(made.round), count(made.states[0]), share(made.heaviest[1]), text(made.heaviest[0], 60), real(made.effective, 3)]
        for made in facts.participation.rounds
        if made.heaviest is not None
    )
    query = _ask(facts, "round, client_id, weight FROM v1_client_rounds")
    return table("Weights by round; as many clients of equal weight would say as much", columns, rows, query)  # type: ignore[arg-type]


def checkpoints(facts: Facts) -> Table:
    columns: list[Column] = [("round", "number"), ("digest of the model", "code"), ("file", "code"), ("size", "number"), ("deleted", "time")]
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


# --- by client ---------------------------------------------------------------------------------------------------------


def participation_by_client(facts: Facts) -> Table:
    columns: list[Column] = [("client", "text"), *_numbers(*(state.label for state in STATES), "mean s", "longest s")]
    columns += _numbers("sent in", "sent out")
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
    columns: list[Column] = [("client", "text"), *_numbers("accepted updates", "mean norm", "largest norm")]
    rows = (
        [text(client.client_id), count(client.row["accepted"]), real(client.row["mean_norm"]), real(client.row["max_norm"])]
        for client in facts.participation.clients
    )
    return table("Update norms by client", columns, rows, _ask(facts, "client_id, update_norm FROM v1_client_rounds"))


def weights_by_client(facts: Facts) -> Table:
    """Sorted by what each has of the run."""
    made = len([row for row in facts.committed if row["round"]]) or 1
    columns: list[Column] = [("client", "text"), *_numbers("samples", "accepted updates", "share of the run", "largest share")]
    rows = (
        [
            text(client.client_id),
            count(client.row["data_size"]),
            count(client.row["accepted"]),
            share((client.row["weight"] or 0) / made),
            share(client.row["max_weight"]),
        ]
        for client in sorted(facts.participation.clients, key=lambda client: -(client.row["weight"] or 0))
    )
    return table("Weights by client", columns, rows, _ask(facts, "client_id, weight FROM v1_client_rounds"))


# --- what was set, and who did it ------------------------------------------------------------------------------------------


def settings(facts: Facts, caption: str, which: Callable[[str, Any], bool]) -> Table:
    """The settings in force that ``which`` takes, in the order of the reference."""
    order = {setting.key: place for place, setting in enumerate(SERVER_SETTINGS)}
    keys = sorted((key for key, value in facts.settings.items() if which(key, value)), key=lambda key: order.get(key, 999))
    rows = [[f"--{text(key, 60).replace('_', '-')}", setting_cell(facts, key, facts.settings[key])] for key in keys]
    return table(caption, [("setting", "code"), ("value", "text")], rows)


def setting_cell(facts: Facts, key: str, value: Any) -> str:
    shown = shown_setting(key, value, facts.personal)
    return f"({WITHHELD})" if shown is None else text(shown)


def chosen(key: str, value: Any) -> bool:
    return not is_default(key, value)


def overrides(facts: Facts) -> Table:
    columns: list[Column] = [("when", "time"), ("process", "number"), ("setting", "code"), ("before", "text"), ("since then", "text")]
    rows = []
    for act in facts.acts:
        if act["kind"] == "override":
            said = details(act)
            key = str(said.get("setting"))
            cells = [setting_cell(facts, key, said.get(when)) for when in ("before", "now")]
            rows.append([moment(act["at"]), str(act["process_id"]), f"--{text(key).replace('_', '-')}", *cells])
    return table("Settings that a resumption gave anew", columns, rows)


def processes(facts: Facts) -> Table:
    columns: list[Column] = [("process", "number"), ("user", "text"), ("from", "time"), ("to", "time"), ("lasted", "number")]
    columns += [("exit code", "number"), ("went on from", "number"), ("flserver", "text"), ("Python", "text"), ("torch", "text")]
    if facts.personal:
        columns.insert(1, ("machine", "text"))
    rows = (
        [
            str(row["process_id"]),
            *([text(row["host"])] if facts.personal else []),
            text(row["user"], 60),
            moment(row["started_at"]),
            moment(row["ended_at"]),
            duration(between(row["started_at"], row["ended_at"])),
            count(row["exit_code"]),
            NONE if row["resumed_from_round"] is None else f"round {row['resumed_from_round']}",
            *(text(row[key], 40) for key in ("server_version", "python_version", "torch_version")),
        ]
        for row in facts.processes
    )
    return table("Server processes", columns, rows)


def acts(facts: Facts) -> Table:
    columns: list[Column] = [("when", "time"), ("process", "number"), ("what", "text"), ("by whom", "text")]
    if facts.personal:
        columns += [("why", "text"), ("detail", "code")]
    rows = []
    for act in facts.acts:
        more = [text(act.get("reason"), 500), as_json(act["detail"])] if facts.personal else []
        rows.append([moment(act["at"]), str(act["process_id"]), act["kind"], text(act.get("actor"), 60), *more])
    return table("What operators and signals did", columns, rows)


def people(facts: Facts) -> Table:
    """What is left out without being asked for."""
    columns: list[Column] = [("client", "text"), ("registration", "number"), ("identity", "text"), ("name in the roster", "text")]
    columns += [("address", "text"), ("certificate", "text"), ("fingerprint", "code"), ("what it told of itself", "code")]
    rows = (
        [
            text(row["client_id"]),
            str(row["registration"]),
            row["identity"],
            *(text(row[key]) for key in ("label", "peer_host", "certificate_subject", "certificate_fingerprint")),
            as_json(row["info"]),
        ]
        for row in facts.people
    )
    return table("Registrations, with who they were", columns, rows)
