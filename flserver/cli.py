"""The command line: the only place that reads flags, environment and files, and sets up logging.

A bare ``flserver`` serves. The other commands read a database, also while a server writes it. What is slow to import
(torch, SQLAlchemy, alembic) is imported by the command that uses it.
"""

import json
import logging
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flserver import __version__
from flserver.errors import UsageError
from flserver.settings import SERVER_SETTINGS, server_settings
from flserver.settings.options import options, run, sources
from flserver.tabular import FORMATS, render

if TYPE_CHECKING:
    from flserver.store.reader import Reader

db_option = click.option("--db", type=click.Path(), default=None, metavar="PATH", help="The SQLite database.")
format_option = click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)


def run_cli(args: list[str] | None = None) -> int:
    """Run the command line (``sys.argv`` by default) and return its exit code."""
    return run(cli, "FLSERVER", args)


@click.group("flserver", invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="flserver")
@options(SERVER_SETTINGS)
@click.pass_context
def cli(ctx: click.Context, /, **values: Any) -> int:
    """Serve a federated-learning run to socket trainers, or ask a database about its runs.

    Every option can also be set as FLSERVER_NAME in the environment or as a key in a --config file. Exit codes: 0 done,
    1 failed, 2 usage, 3 interrupted and resumable.
    """
    ctx.obj = values["db"]
    if ctx.invoked_subcommand is not None:
        return 0
    given = {key: values[key] for key, source in sources(ctx).items() if source != "default" and key in values}
    return _serve(values, given)


def _serve(values: dict[str, Any], given: dict[str, Any]) -> int:
    from flserver.observers.console import JsonFormatter, LiveConsole, LogConsole
    from flserver.process.launch import launch

    settings = server_settings(values)
    level = getattr(logging, values["log_level"].upper())
    with ExitStack() as stack:
        console: Any
        if sys.stderr.isatty() and values["log_format"] == "text":
            from rich.console import Console

            console = LiveConsole(Console(stderr=True))
            handler = console.handler
            console.start()
            stack.callback(console.close)
        else:
            console = LogConsole()
            handler = logging.StreamHandler(sys.stderr)
            text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
            handler.setFormatter(JsonFormatter() if values["log_format"] == "json" else text)
        logging.basicConfig(level=level, handlers=[handler], force=True)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        return launch(settings, given, [console], logging.getLogger("flserver").info)


def _reader(ctx: click.Context, db: str | None) -> "Reader":
    from flserver.store.reader import Reader

    return Reader(Path(db or ctx.obj))


@cli.command("runs")
@db_option
@format_option
@click.pass_context
def runs(ctx: click.Context, db: str | None, form: str) -> None:
    """List the runs, newest first."""
    columns, rows = _reader(ctx, db).query(
        "SELECT run_id, name, status, rounds_committed, num_rounds, model, started_at, ended_at FROM v1_runs"
        " ORDER BY started_at DESC, run_id DESC"
    )
    click.echo(render(columns, rows, form), nl=False)


@cli.command("show")
@click.argument("run")
@db_option
@format_option
@click.pass_context
def show(ctx: click.Context, run: str, db: str | None, form: str) -> None:
    """Show RUN's rounds: how they ended, how long they took, who took part, what was measured."""
    reader = _reader(ctx, db)
    found = reader.run(run)
    columns, rows = reader.query(
        "SELECT round, attempt, status, seconds, clients, updates_accepted, data_size, loss, accuracy, model_digest"
        " FROM v1_rounds WHERE run_id = :run ORDER BY round, attempt",
        {"run": found["run_id"]},
    )
    if form == "table":
        click.echo("run {run_id}  name {name}  {status}  model {model}\n".format(**found))
    click.echo(render(columns, rows, form), nl=False)


@cli.command("query")
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
@click.pass_context
def query(ctx: click.Context, sql: str, parameters: tuple[str, ...], db: str | None, form: str) -> None:
    """Run SQL, which can only read, over the v1_ views. - reads it from standard input.

    For example: flserver query - --param run_id=RUN_ID < ops/sql/learning_curve.sql
    """
    values = dict(map(_parameter, parameters))
    columns, rows = _reader(ctx, db).query(sys.stdin.read() if sql == "-" else sql, values)
    click.echo(render(columns, rows, form), nl=False)


def _parameter(text: str) -> tuple[str, str | int]:
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise UsageError(f"--param {text}: not of the form NAME=VALUE")
    return name, int(value) if re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", value) else value


@cli.command("export-model")
@click.argument("run")
@click.option("--round", "which", default="last", show_default=True, metavar="N|best|last", help="Which round's model.")
@click.option(
    "--out", required=True, type=click.Path(), metavar="FILE", help="FILE.safetensors, or FILE.pt: a state_dict."
)
@click.option(
    "--checkpoint-dir", type=click.Path(), default=None, metavar="PATH", help="Where the run's checkpoints lie."
)
@db_option
@click.pass_context
def export_model(
    ctx: click.Context, run: str, which: str, out: str, checkpoint_dir: str | None, db: str | None
) -> None:
    """Write the model of one round of RUN to a file, after its digest was checked."""
    from flserver.audit.export import export

    path = Path(db or ctx.obj)
    written = export(_reader(ctx, db), run, which, Path(out), Path(checkpoint_dir) if checkpoint_dir else None, path)
    click.echo(written)


@cli.command("verify")
@click.option("--checkpoint-dir", type=click.Path(), default=None, metavar="PATH", help="Where the checkpoints lie.")
@db_option
@click.pass_context
def verify(ctx: click.Context, checkpoint_dir: str | None, db: str | None) -> int:
    """Check the events' hash chain and every checkpoint against its digest. Exit code 1 where one does not hold."""
    from flserver.audit.verify import verify_record

    path = Path(db or ctx.obj)
    problems = lines = 0
    for good, line in verify_record(_reader(ctx, db), Path(checkpoint_dir) if checkpoint_dir else None, path):
        click.echo(line, err=not good)
        problems += not good
        lines += 1
    click.echo(f"{problems} of {lines} do not hold" if problems else f"all {lines} hold", err=bool(problems))
    return 1 if problems else 0


@cli.group("db")
def db_group() -> None:
    """The database's schema."""


@db_group.command("upgrade")
@db_option
@click.pass_context
def db_upgrade(ctx: click.Context, db: str | None) -> None:
    """Make the database, or bring an old one to this version's schema after copying it beside itself."""
    from flserver.store.schema import check, ensure_head
    from flserver.store.sqlite import DatabaseLock

    path = Path(db or ctx.obj)
    with DatabaseLock(path):
        upgrade = ensure_head(path)
    if upgrade is None:
        click.echo(f"{path} is at {check(path).current}")
    else:
        click.echo(f"{path}: {upgrade.before} → {upgrade.after}; what it was before is {upgrade.copy}")


@db_group.command("check")
@db_option
@click.pass_context
def db_check(ctx: click.Context, db: str | None) -> int:
    """Say which schema the database has. Exit code 1 where it needs an upgrade."""
    from flserver.store.schema import check

    path = Path(db or ctx.obj)
    state = check(path)
    if state.current is None:
        raise UsageError(f"there is no database at {path}")
    click.echo(json.dumps({"db": str(path), "schema": state.current, "newest": state.head, "at_head": state.at_head}))
    return 0 if state.at_head else 1
