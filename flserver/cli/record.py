"""The commands about the record itself: whether it holds, and the database's schema."""

import json
from pathlib import Path

import click

from flserver.cli.common import checkpoint_dir_option, database, db_option, reader
from flserver.errors import EXIT_DONE, EXIT_FAILED, UsageError


@click.command("verify")
@click.argument("databases", nargs=-1, metavar="[ONE OTHER]", type=click.Path(path_type=Path))
@checkpoint_dir_option
@db_option
@click.pass_context
def verify(ctx: click.Context, databases: tuple[Path, ...], checkpoint_dir: Path | None, db: str | None) -> int:
    """Check the events' hash chain and every checkpoint against its digest. Exit code 1 where one does not hold.

    With two databases: say after which event their chains differ, as after both were served. Exit code 1 where each has
    events that the other has not.
    """
    from flserver.audit.verify import verify_record

    if databases:
        return _compared(databases)
    problems = lines = 0
    for good, line in verify_record(reader(ctx, db), checkpoint_dir, database(ctx, db)):
        click.echo(line, err=not good)
        problems += not good
        lines += 1
    click.echo(f"{problems} of {lines} do not hold" if problems else f"all {lines} hold", err=bool(problems))
    return EXIT_FAILED if problems else EXIT_DONE


def _compared(databases: tuple[Path, ...]) -> int:
    from flserver.audit.forks import fork
    from flserver.store.reader import Reader

    if len(databases) != 2:
        raise UsageError("verify compares two databases: flserver verify ONE OTHER")
    found = fork(*map(Reader, databases))
    click.echo(f"the same up to event {found.common}" if found.common else "no event in common")
    for path, event in zip(databases, (found.ours, found.theirs), strict=True):
        more = "ends there" if event is None else f"goes on with event {event['seq']}, {event['type']} at {event['at']}"
        click.echo(f"{path} {more}")
    return EXIT_FAILED if found.ours is not None and found.theirs is not None else EXIT_DONE


@click.group("db")
def db() -> None:
    """The database's schema."""


@db.command("upgrade")
@db_option
@click.pass_context
def db_upgrade(ctx: click.Context, db: str | None) -> None:
    """Make the database, or bring an old one to this version's schema after copying it beside itself."""
    from flserver.store.lock import DatabaseLock
    from flserver.store.schema import check, ensure_head

    path = database(ctx, db)
    with DatabaseLock(path):
        upgrade = ensure_head(path)
    if upgrade is None:
        click.echo(f"{path} is at {check(path).current}")
    else:
        click.echo(f"{path}: {upgrade.before} → {upgrade.after}; what it was before is {upgrade.copy}")


@db.command("downgrade")
@click.argument("revision")
@db_option
@click.pass_context
def db_downgrade(ctx: click.Context, revision: str, db: str | None) -> None:
    """Bring the database down to an earlier REVISION after copying it, for an older flserver to go on with.

    What that version has no columns for is kept in the events, and is back with the next upgrade.
    """
    from flserver.store.lock import DatabaseLock
    from flserver.store.schema import downgrade

    path = database(ctx, db)
    with DatabaseLock(path):
        done = downgrade(path, revision)
    click.echo(f"{path}: {done.before} → {done.after}; what it was before is {done.copy}")


@db.command("check")
@db_option
@click.pass_context
def db_check(ctx: click.Context, db: str | None) -> int:
    """Say which schema the database has. Exit code 1 where it needs an upgrade."""
    from flserver.store.schema import check

    path = database(ctx, db)
    state = check(path)
    if state.current is None:
        raise UsageError(f"there is no database at {path}")
    click.echo(json.dumps({"db": str(path), "schema": state.current, "newest": state.head, "at_head": state.at_head}))
    return EXIT_DONE if state.at_head else EXIT_FAILED
