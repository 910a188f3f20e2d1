"""What several commands share."""

import functools
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flserver.cli.tables import FORMATS
from flserver.settings.folders import folder_of
from flserver.settings.operator import Operator
from flserver.settings.options import sources
from flserver.settings.places import Place, place_of

if TYPE_CHECKING:
    from flserver.store.reader import Reader

db_option = click.option("--db", type=click.Path(), default=None, metavar="PATH|URL", help="The record.")
json_option = click.option("--json", "as_json", is_flag=True, help="JSON, for programs, in place of lines.")
raw_option = click.option(
    "--raw",
    is_flag=True,
    help="In CSV, text as it is, for programs: else text that begins with =, +, - or @ has an apostrophe before it.",
)
checkpoint_dir_option = click.option(
    "--checkpoint-dir",
    type=click.Path(),
    callback=lambda ctx, param, value: folder_of(value) if value else None,  # empty counts as left out
    default=None,
    metavar="PATH|s3://…",
    help="Where the checkpoints lie.",
)


def format_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator for a command that prints rows: ``--format`` and ``--json``. The command is given ``form``."""

    @functools.wraps(command)
    def with_form(*args: Any, form: str, as_json: bool, **values: Any) -> Any:
        return command(*args, form="json" if as_json else form, **values)

    decorated = click.option("--json", "as_json", is_flag=True, help="The same as --format json.")(with_form)
    how = "How the rows are printed: for people, fitted to their terminal, or whole and exact for programs."
    kinds = click.Choice(FORMATS)
    return click.option("--format", "form", type=kinds, default="table", show_default=True, help=how)(decorated)


def _run_names(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """What RUN may be, for a shell that completes it: names, and run_ids where these are begun; nothing on an error.

    The shell puts a word into the command line as it stands: what means something to it is not offered.
    """
    with suppress(Exception):
        runs = reader(ctx, ctx.params.get("db") or ctx.find_root().params.get("db")).runs()
        words = dict.fromkeys(["newest", *(run["name"] for run in runs), *(run["run_id"] for run in runs)])
        begun = [word for word in words if word.startswith(incomplete) and (incomplete or word[:1].isalpha())]
        return [word for word in begun if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@+=/-]*", word)]
    return []


run_argument = click.argument("run", required=False, metavar="[RUN]", shell_complete=_run_names)
"""Which run: a name, a run_id or the beginning of one, ``newest``; left out it is the newest (``Reader.run``)."""
runs_argument = click.argument("runs", nargs=-1, metavar="RUN…", shell_complete=_run_names)
run_option = click.option(
    "--run",
    "run",
    default=None,
    metavar="RUN",
    shell_complete=_run_names,
    help="Which run: its name, run_id or the beginning of that. Default: the newest.",
)


def operator_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator for a command that changes something: ``--actor`` and ``--reason``, which may also stand before it.

    The command is given ``operator``, an Operator.
    """

    @functools.wraps(command)
    def with_operator(*args: Any, actor: str | None, reason: str | None, **values: Any) -> Any:
        before = click.get_current_context().find_root().params
        operator = Operator.of(actor or before.get("actor"), reason or before.get("reason"))
        return command(*args, operator=operator, **values)

    decorated: Callable[..., Any] = click.option("--reason", metavar="TEXT", help="Why, for the record.")(with_operator)
    who = "Who does this, for the record. Default: the system's user."
    return click.option("--actor", metavar="NAME", help=who)(decorated)


def answer(told: Mapping[str, Any], lines: Iterable[str], as_json: bool) -> None:
    """Print what came of a command: ``told`` as one object of JSON for programs, else the ``lines`` that say it."""
    if as_json:
        click.echo(json.dumps(told, indent=1, default=str))
        return
    for line in lines:
        click.echo(line)


audit_head_option = click.option(
    "--audit-head",
    type=click.Path(),
    callback=lambda ctx, param, value: Path(value) if value else None,
    default=None,
    metavar="FILE",
    help="Note the chain's head in this file, which the server's setting names too.",
)
"""For a command that appends to the record."""


def database(ctx: click.Context, db: str | None) -> Place:
    """Where the database is that is meant: ``--db`` after the command, else before it, else the default."""
    return place_of(db or ctx.obj)


def reader(ctx: click.Context, db: str | None) -> "Reader":
    """A reader of the database that is meant."""
    from flserver.store.reader import Reader

    return Reader(database(ctx, db))


def warn_of_role(place: Place) -> None:
    """Say, on standard error, where a query can do more than read."""
    from flserver.store.database import at

    if (role := at(place).more_than_reads()) is not None:
        click.echo(
            f"flserver: {place} is asked as {role}, who may do more than read it: a query can then end others' "
            "sessions, hold locks and, of a superuser, read the server's files. flserver db roles prints the grants of "
            "a role for asking",
            err=True,
        )


def typed(ctx: click.Context, key: str) -> bool:
    """Whether somebody at a terminal has typed the option with this ``key``."""
    at_terminal = any(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))
    return at_terminal and sources(ctx).get(key) == "flag"
