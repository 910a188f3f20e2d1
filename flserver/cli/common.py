"""What several commands share."""

import functools
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flserver.cli.tables import FORMATS
from flserver.settings.folders import folder_of
from flserver.settings.operator import Operator
from flserver.settings.options import sources
from flserver.settings.places import Place, place_of
from flserver.text import json_text

if TYPE_CHECKING:
    from flserver.store.reader import Reader


@dataclass
class Asked:
    """What is asked for in one call of the command line, whichever its command: ``db`` before it, and JSON."""

    db: str | None = None
    json: bool = False


def wants_json(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """The callback of each option that asks for JSON, which is looked at before the others: a command that fails for
    these says so in JSON too."""
    if value in (True, "json"):
        ctx.ensure_object(Asked).json = True
    return value


_IN_WORDS = re.compile(r"(^|\0)(--json|--format[=\0]json)(\0|$)")


def say_failed(asked: Asked, words: Sequence[str], said: str, code: int) -> None:
    """Print why a command has failed, as an object in one line, for whom ``asked`` for JSON, also in ``words`` that
    click could make nothing of."""
    if asked.json or _IN_WORDS.search("\0".join(words).split("\0--\0")[0]):
        say_json({"error": said, "exit_code": code}, line=True)


def say_json(told: Any, *, line: bool = False) -> None:
    """Print ``told`` as JSON; where more of them follow, or may, in one ``line``."""
    click.echo(json_text(told, None if line else 1))


db_option = click.option("--db", type=click.Path(), default=None, metavar="PATH|URL", help="The record.")


def json_flag(
    help: str = "JSON, for programs, in place of lines.",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option ``--json``, which every command has that answers. The command is given ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, is_eager=True, callback=wants_json, help=help)


def interval_option(
    least: float, default: float, most: float = 86400
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option ``--interval`` of a command that looks again and again, from ``least`` seconds to ``most``."""
    return click.option(
        "--interval",
        type=click.FloatRange(least, most),
        default=default,
        show_default=True,
        metavar="SECONDS",
        help="Seconds between two looks.",
    )


json_option = json_flag()
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

    decorated = json_flag("The same as --format json.")(with_form)
    return click.option(
        "--format",
        "form",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        is_eager=True,
        callback=wants_json,
        help="How the rows are printed: for people, fitted to their terminal, or whole and exact for programs.",
    )(decorated)


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
        say_json(told)
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
    return place_of(db or ctx.ensure_object(Asked).db or "")


def reader(ctx: click.Context, db: str | None) -> "Reader":
    """A reader of the database that is meant."""
    from flserver.store.reader import Reader

    return Reader(database(ctx, db))


def warn_of_role(place: Place) -> None:
    """Say at a terminal where a query can do more than read: what runs every night would say it every night."""
    from flserver.store.database import at

    if sys.stderr.isatty() and (role := at(place).more_than_reads()) is not None:
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
