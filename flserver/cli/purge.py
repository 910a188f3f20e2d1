"""The command that removes for good."""

import getpass
import os
from pathlib import Path

import click

from flserver.cli.common import checkpoint_dir_option, database, db_option
from flserver.clock import utc_moment
from flserver.errors import EXIT_DONE, UsageError


@click.command("purge")
@click.option("--what", type=click.Choice(["payloads", "checkpoints"]), required=True, help="What goes.")
@click.option("--run", "run", default=None, metavar="RUN", help="Of this run, all of it.")
@click.option("--before", default=None, metavar="DATE", help="Of all runs, what is older than this date or time (UTC).")
@click.option("--client", default=None, metavar="ID", help="Of all runs, what is about this client alone.")
@click.option("--yes", is_flag=True, help="Do it. Without, it is only said what would go.")
@click.option("--actor", default=None, metavar="NAME", help="Who does it, for the record. Default: the system's user.")
@click.option("--reason", default=None, metavar="TEXT", help="Why, for the record.")
@checkpoint_dir_option
@db_option
@click.pass_context
def purge(
    ctx: click.Context,
    what: str,
    run: str | None,
    before: str | None,
    client: str | None,
    yes: bool,
    actor: str | None,
    reason: str | None,
    checkpoint_dir: Path | None,
    db: str | None,
) -> int:
    """Remove payloads with the text from outside, or checkpoints, for good. No server may have the database open.

    The chain, numbers, times, digests and client ids stay, verify goes on to find an edit in them, and the purge is
    itself on record.
    """
    from flserver.audit.purge import Wanted, carry_out, plan
    from flserver.store.lock import DatabaseLock

    path = database(ctx, db)
    if not path.is_file():
        raise UsageError(f"there is no database {path}")
    wanted = Wanted(
        what=what,  # type: ignore[arg-type]
        run=run,
        before=None if before is None else _moment(before),
        client=client,
        actor=actor or _user(),
        reason=reason,
    )
    with DatabaseLock(path):
        made = plan(path, wanted, checkpoint_dir)
        for line in made.lines:
            click.echo(line)
        if made.empty:
            click.echo("there is nothing to purge")
        elif yes:
            carry_out(path, wanted, made)
            click.echo("purged")
        else:
            click.echo("nothing was purged: --yes does it, and there is no way back")
    return EXIT_DONE


def _moment(text: str) -> str:
    try:
        return utc_moment(text)
    except ValueError as error:
        raise UsageError(f"--before {error}") from error


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())
