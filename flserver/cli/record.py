"""The commands about the record itself: whether it holds, and the database's schema."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from flserver.cli.common import (
    answer,
    audit_head_option,
    checkpoint_dir_option,
    database,
    db_option,
    json_option,
    operator_options,
    say_json,
)
from flserver.errors import EXIT_DONE, EXIT_FAILED, UsageError
from flserver.settings.folders import Folder
from flserver.settings.operator import Operator
from flserver.settings.places import Address, Place, place_of


def _file(name: str) -> Path:
    if not name:
        raise UsageError("--audit-head is empty: nothing would be held against it")
    return Path(name)


@click.command("verify")
@click.argument("databases", nargs=-1, metavar="[ONE OTHER]", type=click.Path())
@checkpoint_dir_option
@click.option(
    "--without-checkpoints",
    is_flag=True,
    help="Check the record alone, where its checkpoints and kept updates are not here.",
)
@click.option(
    "--audit-head",
    type=click.Path(),
    callback=lambda ctx, param, value: None if value is None else _file(value),
    default=None,
    metavar="FILE",
    help="Where the server noted the chain's heads: finds an end that was cut off, or written anew.",
)
@click.option(
    "--verbose",
    is_flag=True,
    help="A line for each checkpoint and kept update that holds, as in a pipe; at a terminal they are counted.",
)
@json_option
@db_option
@click.pass_context
def verify(
    ctx: click.Context,
    databases: tuple[str, ...],
    checkpoint_dir: Folder | None,
    without_checkpoints: bool,
    audit_head: Path | None,
    verbose: bool,
    as_json: bool,
    db: str | None,
) -> int:
    """Hold the record against itself: the events' hash chain, every table against the events, every checkpoint and kept
    update.

    Exit codes: 0 it holds, 1 it does not, 2 something could not be checked. The database is copied first, so that a
    server that writes it is not held up.

    With two databases: say after which event their chains differ, as after both were served, and hash the checkpoints
    and kept updates of both. Exit code 1 where each has events that the other has not, or a file does not hold.
    """
    if databases:
        return _compared([*map(place_of, databases)], as_json, with_files=not without_checkpoints)
    from flserver.audit.report import IN_A_LINE, Report
    from flserver.audit.verify import Verification

    report, short = Report(), sys.stdout.isatty() and not verbose
    verification = Verification(database(ctx, db), checkpoint_dir, not without_checkpoints, audit_head)
    for finding in verification.run():
        report.add(finding)
        if not as_json and not (short and finding.outcome == "holds" and finding.check in IN_A_LINE):
            click.echo(finding.line, err=finding.outcome != "holds")
    if as_json:
        say_json(report.as_json(verification.facts))
    else:
        for line in report.summed if short else ():
            click.echo(line)
        click.echo(report.last_line, err=report.outcome != "holds")
    return report.exit_code


def _compared(databases: Sequence[Place], as_json: bool, *, with_files: bool) -> int:
    from flserver.audit.forks import fork, look_at_files
    from flserver.audit.report import Report
    from flserver.store.reader import Reader
    from flserver.store.schema import check

    if len(databases) != 2:
        raise UsageError(
            "verify looks at the whole record, and takes no run; of two databases it says where they part: "
            "flserver verify ONE OTHER"
        )
    found = fork(*map(Reader, databases))
    parted, report, wrong = found.ours is not None and found.theirs is not None, Report(), []
    for path in databases if with_files else ():
        if check(path).at_head:
            for finding in look_at_files(path):
                report.add(finding)
                if finding.outcome != "holds":
                    wrong.append(f"{path}: {finding.line}")
    counted = {outcome: counter.total() for outcome, counter in report.counts.items()}
    goes_on = [*zip(databases, (found.ours, found.theirs), strict=True)]
    if as_json:
        ends = [{"db": str(path), "goes_on": None if event is None else vars(event)} for path, event in goes_on]
        files = {"files": counted, "findings": wrong} if with_files else {}
        say_json({"common": found.common, "databases": ends} | files)
    else:
        click.echo(f"the same up to event {found.common}" if found.common else "no event in common")
        for path, event in goes_on:
            more = "ends there" if event is None else f"goes on with event {event.seq}, {event.type} at {event.at}"
            click.echo(f"{path} {more}")
        for line in wrong:
            click.echo(line, err=True)
        if with_files:
            click.echo(
                f"of the files that they name, {counted['holds']} hold, {counted['broken']} do not, and "
                f"{counted['unknown']} are not here"
            )
    return EXIT_FAILED if parted or report.outcome == "broken" else EXIT_DONE


@click.group("db")
def db() -> None:
    """The database itself: upgrade, downgrade, copy, roles, check."""


@db.command("upgrade")
@operator_options
@audit_head_option
@json_option
@db_option
@click.pass_context
def db_upgrade(ctx: click.Context, db: str | None, as_json: bool, operator: Operator, audit_head: Path | None) -> None:
    """Make the database, or bring an old one to this version's schema after copying it beside itself."""
    from flserver.process.acts import record_act, require_whole, upgrade_detail
    from flserver.store.database import at
    from flserver.store.schema import check, ensure_head

    path = database(ctx, db)
    with at(path).lock() as lock:
        require_whole(path, lock)
        upgrade = ensure_head(path, lock=lock)
        if upgrade is not None:
            record_act(path, lock, "upgrade", upgrade_detail(upgrade), operator, audit_head)
    if upgrade is None:
        schema = check(path).current
        answer(_moved(path, schema, schema, None), [f"{path} is at {schema}"], as_json)
    else:
        copy = "" if upgrade.copy is None else f"; what it was before is {upgrade.copy}"
        line = f"{path}: {upgrade.before} → {upgrade.after}{copy}"
        answer(_moved(path, upgrade.before, upgrade.after, upgrade.copy), [line], as_json)


def _moved(path: Place, before: str | None, schema: str | None, copy: Path | None) -> dict[str, Any]:
    """What a program is told of a database whose schema was ``before``; ``copy`` is what it was then."""
    return {"db": path, "before": before, "schema": schema, "copy": copy}


@db.command("downgrade")
@click.argument("revision")
@operator_options
@audit_head_option
@json_option
@db_option
@click.pass_context
def db_downgrade(
    ctx: click.Context, revision: str, db: str | None, as_json: bool, operator: Operator, audit_head: Path | None
) -> None:
    """Bring the database down to an earlier REVISION after copying it, for an older flserver to go on with.

    What that version has no columns for is kept in the events, and is back with the next upgrade.
    """
    from flserver.process.acts import record_act
    from flserver.store.database import at
    from flserver.store.schema import check_way_down, downgrade

    path = database(ctx, db)
    with at(path).lock() as lock:
        before = check_way_down(path, revision)
        record_act(path, lock, "downgrade", {"before": before, "after": revision}, operator, audit_head)
        done = downgrade(path, revision)
    line = f"{path}: {done.before} → {done.after}; what it was before is {done.copy}"
    answer(_moved(path, done.before, done.after, done.copy), [line], as_json)


@db.command("copy")
@json_option
@click.argument("source", metavar="FROM", type=click.Path())
@click.argument("target", metavar="TO", type=click.Path())
def db_copy(source: str, target: str, as_json: bool) -> int:
    """Copy a record FROM one database TO another, where there is none yet: a file of SQLite's, or a database of
    PostgreSQL's (postgresql://USER@HOST/DATABASE). It is verified before and after.

    Its models stay where they are: name their folder with --checkpoint-dir. Exit code 1 where it does not hold.
    """
    from flserver.audit.moving import copy_to

    copied = copy_to(place_of(source), place_of(target))
    for problem in copied.problems:
        click.echo(problem, err=True)
    told = {"from": source, "to": target, "events": copied.events, "head": copied.head, "copied": not copied.problems}
    told |= {"problems": copied.problems}
    if copied.problems:
        click.echo(f"{copied.wrong} does not hold: nothing was copied", err=True)
        answer(told, (), as_json)
        return EXIT_FAILED
    holds = f"{target} has all {copied.events} events of {source}, to {copied.head}, and holds as that does"
    answer(told, [holds, "both are the same record now: go on with one of them"], as_json)
    return EXIT_DONE


@db.command("roles")
@click.argument("role")
@db_option
@click.pass_context
def db_roles(ctx: click.Context, role: str, db: str | None) -> None:
    """Print what grants ROLE, in PostgreSQL, to read the v1_ views and nothing else: for psql."""
    from flserver.store.postgres.roles import grants
    from flserver.store.reader import Reader

    place = database(ctx, db)
    if not isinstance(place, Address):
        raise UsageError(f"{place} is a file, whose readers are those who may read it: roles are PostgreSQL's")
    with Reader(place).asking() as asked:
        ((name,),) = asked.rows("SELECT current_database()")[1]
        click.echo(grants(role, name, asked.views()))


@db.command("check")
@json_option
@db_option
@click.pass_context
def db_check(ctx: click.Context, db: str | None, as_json: bool) -> int:
    """Say which schema the database has, who has it open, and what is wrong with it: its file, its WAL, its chain of
    events, and the checkpoints from which its runs would go on.

    It is a line of JSON, with --json and without. Exit code 1 where it needs an upgrade, or something is wrong.
    """
    from flserver.audit.condition import problems
    from flserver.store.database import at
    from flserver.store.schema import check

    path = database(ctx, db)
    state = check(path)
    if state.current is None:
        raise UsageError(f"there is no database at {path}")
    found, has_it = list(problems(path)), at(path).holder()
    told = {"db": str(path), "schema": state.current, "newest": state.head, "at_head": state.at_head}
    open_in = None if has_it is None else {"pid": has_it.pid, "since": has_it.since}
    say_json(told | at(path).room() | {"open_in": open_in, "problems": found}, line=True)
    return EXIT_DONE if state.at_head and not found else EXIT_FAILED
