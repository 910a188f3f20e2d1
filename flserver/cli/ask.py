"""The commands that ask the record: runs, show, query."""

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from flserver.cli.common import (
    database,
    db_option,
    format_option,
    raw_option,
    reader,
    run_argument,
    run_option,
    warn_of_role,
)
from flserver.cli.tables import say
from flserver.errors import UsageError
from flserver.settings.places import Place
from flserver.text import did_you_mean, printable

if TYPE_CHECKING:
    from flserver.store.reader import Reader, Row

FEW = 10  # clients, that are named where another one is asked for
ROUNDS = """
    SELECT round, attempt, status, seconds, clients, updates_accepted, data_size, loss, accuracy, model_digest, reason
    FROM v1_rounds WHERE run_id = :run_id ORDER BY round, attempt"""
ONE_ROUND = """
    SELECT attempt, status, started_at, seconds, broadcast_seconds, wait_seconds, aggregate_seconds, evaluate_seconds,
        checkpoint_seconds, updates_accepted, data_size, loss, accuracy, model_digest, reason
    FROM v1_rounds WHERE run_id = :run_id AND round = :round ORDER BY attempt"""
CLIENT_ROUNDS = """
    SELECT p.round, p.attempt, p.client_id, participation, p.decision, p.reason, p.data_size, p.weight, p.sent_at,
        p.seconds, u.wait_seconds AS training_seconds, u.upload_seconds, p.bytes_in, p.bytes_out, p.update_norm
    FROM v1_client_rounds AS p LEFT JOIN v1_updates AS u
        ON u.run_id = p.run_id AND u.answers_round = p.round AND u.answers_attempt = p.attempt
        AND u.client_id = p.client_id
    WHERE p.run_id = :run_id AND (:round IS NULL OR p.round = :round) AND (:client IS NULL OR p.client_id = :client)
    ORDER BY p.round, p.attempt, p.client_id"""
NODES = """
    SELECT node, slot, host, pid, listen_host, listen_port, started_at, ended_at, lost, end_reason, connections,
        updates, updates_lost
    FROM v1_nodes WHERE run_id = :run_id ORDER BY started_at, node"""
REGISTRATIONS = """
    SELECT registration, label, identity, data_size, registered_at, left_at, left_reason
    FROM v1_clients WHERE run_id = :run_id AND client_id = :client ORDER BY registration"""


@click.command("runs")
@click.option("--sort", metavar="[-]COLUMN", help="By this column, -COLUMN from its largest value down.")
@db_option
@format_option
@raw_option
@click.pass_context
def runs(ctx: click.Context, sort: str | None, db: str | None, form: str, raw: bool) -> None:
    """List the runs, newest first. Loss and accuracy are of the last committed round.

    For example: flserver --db runs.sqlite runs --sort -accuracy
    """
    from flserver.record.overview import RUNS

    columns, rows = reader(ctx, db).query(RUNS)
    if form == "table":
        rows = for_people(columns, rows, database(ctx, db))
    if sort is not None:
        rows = in_order(columns, rows, sort)
    say(columns, rows, form, raw=raw, nothing="no runs yet")


def for_people(columns: Sequence[str], rows: Sequence[tuple[Any, ...]], where: Place) -> list[tuple[Any, ...]]:
    """Rows about runs, each with its status as ``status_shown`` has it; other rows as they are."""
    from flserver.store.database import at

    if not {"run_id", "name", "status"} <= {*columns}:
        return [*rows]
    shown, place, run = at(where).status_shown, columns.index("status"), columns.index("run_id")
    return [(*row[:place], shown(row[place], row[run]), *row[place + 1 :]) for row in rows]


def in_order(columns: Sequence[str], rows: Sequence[tuple[Any, ...]], by: str) -> list[tuple[Any, ...]]:
    """The rows by a column of theirs, or by ``-`` and the column from the largest down; those without a value last.

    Raises UsageError where there is no such column.
    """
    name = by.removeprefix("-")
    if name not in columns:
        raise UsageError(f"--sort {by}: choose from {', '.join(columns)}{did_you_mean(name, columns)}")
    place = columns.index(name)
    there = sorted((row for row in rows if row[place] is not None), key=lambda row: row[place], reverse=by != name)
    return there + [row for row in rows if row[place] is None]


@click.command("show")
@run_argument
@click.option("--round", "number", type=click.IntRange(min=0), metavar="N", help="This round: its clients and times.")
@click.option("--client", metavar="ID", help="This client: its registrations, and what became of each of its rounds.")
@db_option
@format_option
@raw_option
@click.pass_context
def show(
    ctx: click.Context, run: str | None, number: int | None, client: str | None, db: str | None, form: str, raw: bool
) -> None:
    """Show RUN's rounds: how they ended, how long they took, who took part, what was measured.

    RUN is a name, a run_id, the beginning of one, or newest; left out it is the newest. With --round or --client a row
    is a client in an attempt at a round.
    """
    record = reader(ctx, db)
    found = record.run(run)
    values = {"run_id": found["run_id"], "round": number, "client": client}
    _require_known(record, found, number, client)
    if form == "table":
        from flserver.store.database import at

        status = at(database(ctx, db)).status_shown(found["status"], found["run_id"])
        click.echo(_headline({**found, "status": status}) + "\n")
    if number is None and client is None:
        if form == "table" and (nodes := _nodes(record, values)):
            say(*nodes, form)
            click.echo()
        say(*record.each(ROUNDS, values), form, raw=raw)
        return
    if form == "table":
        for query in ([] if number is None else [ONE_ROUND]) + ([] if client is None else [REGISTRATIONS]):
            say(*record.query(query, values), form)
            click.echo()
    nothing = "nobody was invited" if client is None else "it was invited to no round"
    say(*record.each(CLIENT_ROUNDS, values), form, raw=raw, nothing=nothing)


def _nodes(record: "Reader", values: "Row") -> "tuple[Sequence[str], Sequence[tuple[Any, ...]]] | None":
    """Those of the run, where it had some; an older record cannot tell."""
    with record.asking() as asked:
        if "v1_nodes" not in asked.views():
            return None
    columns, rows = record.query(NODES, values)
    return (columns, rows) if rows else None


def _headline(run: "Row") -> str:
    parent = "  from round {parent_round} of run {parent_run_id}" if run["parent_run_id"] is not None else ""
    return f"run {{run_id}}  name {{name}}  {{status}}  model {{model}}{parent}".format(
        **{key: printable(str(value)) for key, value in run.items()}
    )


def _require_known(record: "Reader", run: "Row", number: int | None, client: str | None) -> None:
    """Raises UsageError where the run has no such round, or no such client."""
    name, values = printable(run["name"]), {"run_id": run["run_id"], "round": number, "client": client}
    if number is not None:
        _, ((last, there),) = record.query(
            "SELECT MAX(round), SUM(round = :round) FROM v1_rounds WHERE run_id = :run_id", values
        )
        if not there:
            has = "none yet" if last is None else f"rounds up to {last}"
            raise UsageError(f"run {name} has no round {number}: it has {has}")
    if client is not None:
        known = [row[0] for row in record.query(_CLIENTS, values)[1]]
        if client not in known:
            has = f": it has {', '.join(known)}" if 0 < len(known) <= FEW else ""
            mean = did_you_mean(client, known) or has
            raise UsageError(f"run {name} has no client {client!r}{printable(mean)}")


_CLIENTS = "SELECT DISTINCT client_id FROM v1_clients WHERE run_id = :run_id"


@click.command("query")
@click.argument("sql")
@click.option(
    "--param",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="The value of the SQL's :NAME, an integer where it is written as one; may be given several times.",
)
@run_option
@db_option
@format_option
@raw_option
@click.pass_context
def query(
    ctx: click.Context, sql: str, parameters: tuple[str, ...], run: str | None, db: str | None, form: str, raw: bool
) -> None:
    """Run SQL, which can only read, over the v1_ views. - reads it from standard input.

    Where the SQL has :run_id, that is the run_id of --run's run, of the newest one where none is named.

    For example: flserver query - --run first-run < ops/sql/learning_curve.sql
    """
    record = reader(ctx, db)
    warn_of_role(record.place)
    sql = sys.stdin.read() if sql == "-" else sql
    say(*record.each(sql, asked_of(record, sql, run, parameters)), form, raw=raw)


def asked_of(record: "Reader", sql: str, run: str | None, parameters: Sequence[str]) -> dict[str, Any]:
    """The values of the names in ``sql``: ``parameters`` as NAME=VALUE, of which ``run_id`` may be any RUN, as ``run``
    is, or left out. Raises UsageError where there is no such run."""
    values: dict[str, Any] = dict(map(parameter, parameters))
    if run is not None and "run_id" in values:
        raise UsageError("--run and --param run_id both say which run: leave one of the two out")
    if run is not None or "run_id" in values or re.search(r":run_id\b", sql):
        values["run_id"] = record.run(run if run is not None else _text(values.get("run_id")))["run_id"]
    return values


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def parameter(text: str) -> tuple[str, str | int]:
    """A ``--param``: its name and its value. Raises UsageError where it is none."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise UsageError(f"--param {text}: not of the form NAME=VALUE")
    return name, int(value) if re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", value) else value
