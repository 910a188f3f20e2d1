"""The command that asks the questions of the cookbook."""

import sys
from typing import TYPE_CHECKING

import click

from flserver.cli.ask import for_people, parameter
from flserver.cli.common import database, db_option, format_option, raw_option, reader, warn_of_role
from flserver.cli.tables import say, terminal_width
from flserver.errors import UsageError
from flserver.text import printable

if TYPE_CHECKING:
    from flserver.record.questions import Question
    from flserver.store.reader import Row


@click.command("ask")
@click.argument("name", required=False, metavar="[QUESTION]")
@click.option("--run", "run", default=None, metavar="RUN", help="The run that is meant. Default: the newest.")
@click.option(
    "--param",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="The value of one of the question's parameters; may be given several times.",
)
@db_option
@format_option
@raw_option
@click.pass_context
def ask(
    ctx: click.Context,
    name: str | None,
    run: str | None,
    parameters: tuple[str, ...],
    db: str | None,
    form: str,
    raw: bool,
) -> None:
    """Answer a QUESTION of the cookbook; without one, list them with their parameters.

    Each is a query over the v1_ views, in ops/sql/ and inside the package, to be changed for questions of your own.

    For example: flserver ask who_slowed_a_round --run first-run --param round=7
    """
    from flserver.record.questions import answer, question, questions

    values = dict(map(parameter, parameters))
    if name is None:
        if run is not None or values:
            raise UsageError("ask lists the questions: --run and --param go with one of them")
        rows = [(each.name, each.title, _takes(each)) for each in questions().values()]
        if form == "table" and sys.stdout.isatty():  # a table would cut the questions off
            formatter = click.HelpFormatter(width=terminal_width())
            formatter.write_dl([(name, f"{title} {takes}".rstrip()) for name, title, takes in rows])
            click.echo(formatter.getvalue(), nl=False)
        else:
            say(("name", "question", "parameters"), rows, form, raw=raw)
        return
    asked = question(name)
    warn_of_role(database(ctx, db))
    given = answer(reader(ctx, db), asked, run, values)
    if form == "table":
        of_run = (
            "" if given.run is None else "  run {run_id}  name {name}  {status}".format(**_shown(ctx, db, given.run))
        )
        click.echo(f"{asked.title}{printable(of_run)}\n")
    shown = for_people(given.columns, given.rows, database(ctx, db)) if form == "table" else given.rows
    say(given.columns, shown, form, raw=raw, nothing=printable(given.nothing, limit=1000))


def _shown(ctx: click.Context, db: str | None, run: "Row") -> "Row":
    from flserver.store.database import at

    return {**run, "status": at(database(ctx, db)).status_shown(run["status"], run["run_id"])}


def _takes(asked: "Question") -> str:
    """Its parameters beside the run; in brackets what may be left out."""
    others = [name for name in asked.parameters if name != "run_id"]
    return ", ".join(f"[{name}]" if name in asked.defaults else name for name in others)
