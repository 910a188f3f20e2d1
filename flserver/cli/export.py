"""The command that gives a run's rows to other programs."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from flserver.cli.common import db_option, raw_option, reader, run_argument
from flserver.errors import UsageError
from flserver.text import did_you_mean

if TYPE_CHECKING:
    from flserver.record.views_out import Form

FORMS = ("csv", "jsonl", "parquet")


@click.command("export")
@run_argument
@click.option("--format", "form", type=click.Choice(FORMS), default="csv", show_default=True, help="What is written.")
@click.option(
    "--out",
    required=True,
    metavar="DIR|-",
    help="A new folder, in which each view is a file; - is standard output, for one view.",
)
@click.option("--view", metavar="NAME", help="This view alone, such as v1_rounds, to standard output.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest in place of a line.")
@raw_option
@db_option
@click.pass_context
def export(
    ctx: click.Context, run: str | None, form: str, out: str, view: str | None, as_json: bool, raw: bool, db: str | None
) -> None:
    """Write RUN's rows of every v1_ view to DIR, a file each, and manifest.json: columns, counts, digests of the files,
    and the head of the record that they are from.

    All are of one state of the record, also while a server writes it. They hold addresses, certificates, what clients
    told of themselves, and free text: whoever is given them may see all of that.

    For example: flserver --db runs.sqlite export first-run --format parquet --out first-run
    """
    from flserver.record.views_out import views, write_all, write_view

    record, kind = reader(ctx, db), cast("Form", form)
    found = record.run(run)
    if (view is None) == (out == "-"):
        raise UsageError("--view NAME goes with --out -, which takes one view: without them DIR gets all")
    if view is not None:
        there = views(record)
        if view not in there:
            raise UsageError(f"--view {view}: choose from {', '.join(there)}{did_you_mean(view, there)}")
        write_view(record, found, view, kind, sys.stdout.buffer, raw=raw)
        sys.stdout.buffer.flush()
        return
    manifest = write_all(record, found, kind, Path(out), raw=raw)
    if as_json:
        click.echo(json.dumps(manifest, indent=2))
    else:
        rows = sum(each["rows"] for each in manifest["views"].values())
        click.echo(f"{out}: {rows} rows of {len(manifest['views'])} views of run {found['run_id']}")
