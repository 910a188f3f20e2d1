"""The command that draws a run."""

from pathlib import Path

import click

from flserver.cli.common import answer, audit_head_option, database, db_option, json_option, operator_options
from flserver.errors import NotInstalled, UsageError
from flserver.settings.operator import Operator
from flserver.settings.places import Place


@click.command("report")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE.html",
    help="The page; - is standard output.",
)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.option(
    "--with-personal-data",
    "personal",
    is_flag=True,
    help="With addresses, certificates, what clients told of themselves, and reasons in free text. It goes on record.",
)
@json_option
@operator_options
@audit_head_option
@db_option
@click.pass_context
def report(
    ctx: click.Context,
    runs: tuple[str, ...],
    out: Path,
    force: bool,
    personal: bool,
    as_json: bool,
    db: str | None,
    operator: Operator,
    audit_head: Path | None,
) -> None:
    """Draw RUN (default: the newest) as one HTML page that needs nothing beside it; of several, how they differ.

    It shows what was trained, by whom, how it went, what was refused, how to verify it, and what is not known. A run
    that is not over is shown as it is now.
    """
    from flserver.record.comparison import different_runs
    from flserver.report.facts import read_facts, require_columns
    from flserver.report.write import refuse_to_overwrite, write
    from flserver.store.snapshot import snapshot

    try:
        from flserver.report.page import page
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("flserver"):
            raise
        raise NotInstalled(f"a report needs {error.name}", "report") from error
    path, to_file = database(ctx, db), str(out) != "-"
    if as_json and not to_file:
        raise UsageError("--out - prints the page: --json goes with a file")
    if to_file:
        refuse_to_overwrite(out, force)
    with snapshot(path) as reader:
        require_columns(path)
        rows = different_runs(reader, runs) if runs else [reader.run()]
        facts = [read_facts(reader, row["run_id"], path, personal) for row in rows]
    text = page(facts)
    if personal:
        _on_record(path, [one.run["run_id"] for one in facts], out, operator, audit_head)
    if to_file:
        write(out, text, force)
        what = f"run {facts[0].run['run_id']}" if len(facts) == 1 else f"{len(facts)} runs"
        length, seq = len(text.encode()), facts[0].moment.seq
        told = {"file": out, "runs": [one.run["run_id"] for one in facts], "event": seq, "bytes": length}
        answer(told, [f"{out} shows {what} as of event {seq} ({length / 1e6:.2f} MB)"], as_json)
    else:
        click.echo(text, nl=False)


def _on_record(path: Place, run_ids: list[str], out: Path, operator: Operator, audit_head: Path | None) -> None:
    """What leaves with personal data is on record before it leaves."""
    from flserver.process.acts import record_act
    from flserver.store.database import at
    from flserver.store.schema import check

    if not check(path).at_head:
        raise UsageError(f"{path} is of an older version, and this goes on record: flserver --db {path} db upgrade")
    with at(path).lock(alone=False) as lock:
        detail = {"what": "report", "runs": run_ids, "personal_data": True, "to": str(out)}
        record_act(path, lock, "export", detail, operator, audit_head)
