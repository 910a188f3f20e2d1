"""The commands that copy a record and bring it back."""

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
from flserver.errors import EXIT_DONE, EXIT_FAILED
from flserver.settings.folders import Folder
from flserver.settings.operator import Operator


@click.command("backup")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@json_option
@checkpoint_dir_option
@db_option
@click.pass_context
def backup(ctx: click.Context, folder: Path, as_json: bool, checkpoint_dir: Folder | None, db: str | None) -> int:
    """Copy the database and its checkpoints to DIR, also while a server writes them.

    DIR is made, or is an earlier backup of this database, to which only what is new is copied; checkpoints in an object
    store are copied from there into it. Exit code 1 where a
    checkpoint is missing or is not what the record says; the rest is copied all the same.
    """
    from flserver.audit.backup import back_up

    made = back_up(database(ctx, db), folder, checkpoint_dir)
    for problem in made.problems:
        click.echo(problem, err=True)
    one, place = made.backup, folder / made.backup.file
    told = {"file": place, "made_at": one.made_at, "events": one.events, "head": one.head}
    told |= {"files": made.files, "bytes": made.bytes, "problems": made.problems}
    copied = f"{made.files} files copied, {made.bytes / 2**20:,.1f} MiB"
    answer(told, (f"{place}: {one.events} events, head {one.head}", copied), as_json)
    return EXIT_FAILED if made.problems else EXIT_DONE


@click.command("restore")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@json_option
@checkpoint_dir_option
@operator_options
@audit_head_option
@db_option
@click.pass_context
def restore(
    ctx: click.Context,
    folder: Path,
    as_json: bool,
    checkpoint_dir: Folder | None,
    db: str | None,
    operator: Operator,
    audit_head: Path | None,
) -> int:
    """Make the database that --db names, which is not there yet, from the backup in DIR.

    What was copied is verified first. The checkpoints are restored to a disk, also those of an object store. Exit code
    1 where it does not hold: then nothing is made, and the backup's files are as they were.
    """
    from flserver.audit.restore import restore as from_backup
    from flserver.process.acts import record_act
    from flserver.store.database import at

    path = database(ctx, db)
    restored = from_backup(folder, path, checkpoint_dir)
    for line in (*restored.problems, *restored.notices):
        click.echo(line, err=True)
    backup = restored.backup
    was = {"made_at": backup.made_at, "events": backup.events, "head": backup.head}
    told = {"db": path, **was, "restored": not restored.problems, "problems": restored.problems}
    told |= {"notices": restored.notices, "command": restored.command}
    if restored.problems:
        click.echo(f"{path} was not made: the backup does not hold", err=True)
        answer(told, (), as_json)
        return EXIT_FAILED
    if not as_json:
        click.echo(f"{path} is as it was at {backup.made_at}: all holds")
    with at(path).lock() as lock:
        record_act(path, lock, "restore", {"from": str(folder.absolute()), **was}, operator, audit_head)
    seen = f"nothing is left to go on with; to see its newest run: flserver --db {path} show"
    answer(told, [seen if restored.command is None else f"to go on: {restored.command}"], as_json)
    return EXIT_DONE
