"""The command that removes for good."""

from pathlib import Path

import click

from flserver.cli.common import (
    answer,
    audit_head_option,
    checkpoint_dir_option,
    database,
    db_option,
    json_option,
    operator_options,
)
from flserver.clock import utc_moment
from flserver.errors import EXIT_DONE, UsageError
from flserver.settings.folders import Folder
from flserver.settings.operator import Operator


@click.command("purge")
@click.option("--what", type=click.Choice(["payloads", "checkpoints", "updates"]), required=True, help="What goes.")
@click.option("--run", default=None, metavar="RUN", help="All of this run. No run is implied.")
@click.option("--before", default=None, metavar="DATE", help="Of all runs, what is older than this date or time (UTC).")
@click.option("--client", default=None, metavar="ID", help="Of all runs, what is about this client alone.")
@click.option("--yes", is_flag=True, help="Do it. Without, it is only said what would go.")
@json_option
@operator_options
@audit_head_option
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
    as_json: bool,
    checkpoint_dir: Folder | None,
    db: str | None,
    operator: Operator,
    audit_head: Path | None,
) -> int:
    """Remove payloads with the text from outside, checkpoints, or kept updates, for good.

    No server may have the database open, and the record has to hold: it is verified first.

    The chain, numbers, times, digests and client ids stay, verify goes on to find an edit in them, and the purge is
    itself on record.
    """
    from flserver.audit.purge import Wanted, carry_out, finish, plan
    from flserver.observers.noted_heads import note_now
    from flserver.store.database import at

    path = database(ctx, db)
    at(path).require_there()
    wanted = Wanted(
        what=what,  # type: ignore[arg-type]
        run=run,
        before=None if before is None else _moment(before),
        client=client,
        operator=operator,
    )
    with at(path).lock() as lock:
        made = plan(path, wanted, checkpoint_dir, lock.before)
        if not as_json:
            for line in made.lines:
                click.echo(line)
        if made.empty:
            said = ["there is nothing to purge"]
            if yes:
                finish(path, made)
                said.append("what went before was overwritten once more")
        elif yes:
            head = carry_out(path, wanted, made, lock)
            lock.note_head(head.tree.size, head.digest)
            if audit_head is not None:
                note_now(audit_head, head.tree.size, head.digest)
            finish(path, made)
            said = ["purged"]
        else:
            said = ["nothing was purged: --yes does it, and there is no way back"]
    gone = {"events": made.events, "rows": made.rows, "files": sum(len(paths) for paths, _, _ in made.files)}
    answer({"what": what, "purged": yes and not made.empty, **gone, "lines": made.lines}, said, as_json)
    return EXIT_DONE


def _moment(text: str) -> str:
    try:
        return utc_moment(text)
    except ValueError as error:
        raise UsageError(f"--before {error}") from error
