"""The commands about the record itself: whether it holds, and the database's schema."""

import json
from pathlib import Path

import click

from flserver.cli.common import checkpoint_dir_option, database, db_option, operator_options, reader
from flserver.errors import EXIT_DONE, EXIT_FAILED, UsageError
from flserver.settings.operator import Operator


@click.command("verify")
@checkpoint_dir_option
@db_option
@click.pass_context
def verify(ctx: click.Context, checkpoint_dir: Path | None, db: str | None) -> int:
    """Check the events' hash chain and every checkpoint against its digest. Exit code 1 where one does not hold."""
    from flserver.audit.verify import verify_record

    problems = lines = 0
    for good, line in verify_record(reader(ctx, db), checkpoint_dir, database(ctx, db)):
        click.echo(line, err=not good)
        problems += not good
        lines += 1
    click.echo(f"{problems} of {lines} do not hold" if problems else f"all {lines} hold", err=bool(problems))
    return EXIT_FAILED if problems else EXIT_DONE


@click.group("db")
def db() -> None:
    """The database's schema."""


@db.command("upgrade")
@operator_options
@db_option
@click.pass_context
def db_upgrade(ctx: click.Context, db: str | None, operator: Operator) -> None:
    """Make the database, or bring an old one to this version's schema after copying it beside itself."""
    from flserver.process.acts import record_act, upgrade_detail
    from flserver.store.lock import DatabaseLock
    from flserver.store.schema import check, ensure_head

    path = database(ctx, db)
    with DatabaseLock(path) as lock:
        upgrade = ensure_head(path)
        if upgrade is not None:
            record_act(path, lock, "upgrade", upgrade_detail(upgrade), operator)
    if upgrade is None:
        click.echo(f"{path} is at {check(path).current}")
    else:
        click.echo(f"{path}: {upgrade.before} → {upgrade.after}; what it was before is {upgrade.copy}")


@db.command("check")
@db_option
@click.pass_context
def db_check(ctx: click.Context, db: str | None) -> int:
    """Say which schema the database has, who has it open, and what is wrong with it: its file, its WAL, its chain of
    events, and the checkpoints from which its runs would go on.

    Exit code 1 where it needs an upgrade, or something is wrong.
    """
    from flserver.audit.condition import problems, room
    from flserver.store.lock import holder
    from flserver.store.schema import check

    path = database(ctx, db)
    state = check(path)
    if state.current is None:
        raise UsageError(f"there is no database at {path}")
    found, has_it = list(problems(path)), holder(path)
    told = {"db": str(path), "schema": state.current, "newest": state.head, "at_head": state.at_head}
    open_in = None if has_it is None else {"pid": has_it.pid, "since": has_it.since}
    click.echo(json.dumps(told | room(path) | {"open_in": open_in, "problems": found}))
    return EXIT_DONE if state.at_head and not found else EXIT_FAILED
