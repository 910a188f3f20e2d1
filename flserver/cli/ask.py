"""The commands that ask the record: runs, show, query."""

import re
import sys

import click

from flserver.cli.common import db_option, format_option, raw_option, reader
from flserver.cli.tables import render
from flserver.errors import UsageError


@click.command("runs")
@db_option
@format_option
@raw_option
@click.pass_context
def runs(ctx: click.Context, db: str | None, form: str, raw: bool) -> None:
    """List the runs, newest first."""
    columns, rows = reader(ctx, db).query(
        "SELECT run_id, name, status, rounds_committed, num_rounds, model, started_at, ended_at, parent_run_id,"
        " parent_round FROM v1_runs"
        " ORDER BY started_at DESC, run_id DESC"
    )
    if rows or form != "table":
        click.echo(render(columns, rows, form, raw=raw), nl=False)
    else:
        click.echo("no runs yet")


@click.command("show")
@click.argument("run")
@db_option
@format_option
@raw_option
@click.pass_context
def show(ctx: click.Context, run: str, db: str | None, form: str, raw: bool) -> None:
    """Show RUN's rounds: how they ended, how long they took, who took part, what was measured."""
    record = reader(ctx, db)
    found = record.run(run)
    columns, rows = record.query(
        "SELECT round, attempt, status, seconds, clients, updates_accepted, data_size, loss, accuracy, model_digest,"
        " reason FROM v1_rounds WHERE run_id = :run ORDER BY round, attempt",
        {"run": found["run_id"]},
    )
    if form == "table":
        parent = "  from round {parent_round} of run {parent_run_id}" if found["parent_run_id"] is not None else ""
        click.echo(f"run {{run_id}}  name {{name}}  {{status}}  model {{model}}{parent}\n".format(**found))
    click.echo(render(columns, rows, form, raw=raw), nl=False)


@click.command("query")
@click.argument("sql")
@click.option(
    "--param",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="The value of the SQL's :NAME, an integer where it is written as one; may be given several times.",
)
@db_option
@format_option
@raw_option
@click.pass_context
def query(ctx: click.Context, sql: str, parameters: tuple[str, ...], db: str | None, form: str, raw: bool) -> None:
    """Run SQL, which can only read, over the v1_ views. - reads it from standard input.

    For example: flserver query - --param run_id=RUN_ID < ops/sql/learning_curve.sql
    """
    values = dict(map(parameter, parameters))
    columns, rows = reader(ctx, db).query(sys.stdin.read() if sql == "-" else sql, values)
    click.echo(render(columns, rows, form, raw=raw), nl=False)


def parameter(text: str) -> tuple[str, str | int]:
    """A ``--param``: its name and its value. Raises UsageError where it is none."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise UsageError(f"--param {text}: not of the form NAME=VALUE")
    return name, int(value) if re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", value) else value
