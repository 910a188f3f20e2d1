"""The command that takes a run to other programs: its rows as files, or its numbers to a tool."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from flserver.cli.common import (
    answer,
    checkpoint_dir_option,
    database,
    db_option,
    json_flag,
    raw_option,
    reader,
    run_argument,
    say_json,
)
from flserver.errors import UsageError
from flserver.settings.folders import Folder
from flserver.text import did_you_mean

if TYPE_CHECKING:
    from flserver.record.views_out import Form

FORMS = ("csv", "jsonl", "parquet")
TOOLS = ("mlflow", "tensorboard")


@click.command("export")
@run_argument
@click.option("--format", "form", type=click.Choice(FORMS), help="Write rows so.  [default: csv]")
@click.option("--to", type=click.Choice(TOOLS), help="Rebuild the run in this tool instead.")
@click.option(
    "--out",
    metavar="DIR|-|URI",
    help="A new folder, in which each view is a file; - is standard output, for one view. With --to: MLflow's tracking"
    " URI (default: MLFLOW_TRACKING_URI), or the folder that tensorboard --logdir shows. Required.",
)
@click.option("--view", metavar="NAME", help="This view alone, such as v1_rounds; with --out -.")
@json_flag("JSON, for programs, in place of lines: the manifest.")
@raw_option
@click.option("--experiment", metavar="NAME", help="MLflow's.  [default: flserver]")
@click.option("--with-model", is_flag=True, help="The last round's checkpoint too, as an artifact of MLflow's.")
@checkpoint_dir_option
@db_option
@click.pass_context
def export(
    ctx: click.Context,
    run: str | None,
    form: str | None,
    to: str | None,
    out: str | None,
    view: str | None,
    as_json: bool,
    raw: bool,
    experiment: str | None,
    with_model: bool,
    checkpoint_dir: Folder | None,
    db: str | None,
) -> None:
    """Write RUN's rows of every v1_ view to DIR, a file each, and manifest.json: columns, counts, digests of the files,
    and the head of the record that they are from.

    All are of one state of the record, also while a server writes it. They hold addresses, certificates, what clients
    told of themselves, and free text: whoever is given them may see all of that.

    With --to, rebuild RUN in MLflow or TensorBoard: settings, without addresses and folders, and the rounds' numbers. A
    second time adds only what is new.

    For example: flserver --db runs.sqlite export first-run --format parquet --out first-run
    """
    from flserver.store.schema import check

    check(database(ctx, db))  # what a newer version wrote may mean something else
    if to is None:
        _only("--to mlflow", {"--experiment": experiment, "--with-model": with_model})
        _only("--to", {"--checkpoint-dir": checkpoint_dir})
        _rows(ctx, run, cast("Form", form or "csv"), out, view, db, as_json=as_json, raw=raw)
        return
    for name, value in {"--view": view, "--raw": raw}.items():
        if value:
            raise UsageError(f"{name} does not go with --to: it is for rows")
    if form is not None:
        raise UsageError("--format writes rows, --to rebuilds the run in a tool: leave one of the two out")
    from flserver import record

    out = out or (os.environ.get("MLFLOW_TRACKING_URI") if to == "mlflow" else None)
    if not out:
        raise UsageError(f"--to {to} needs --out: {'a tracking URI' if to == 'mlflow' else 'a folder'}")
    opened = record.open(database(ctx, db), checkpoint_dir)
    found = opened.run() if run is None else opened.run(run)
    if to == "tensorboard":
        from flserver.record.to_tensorboard import to_tensorboard

        _only("--to mlflow", {"--experiment": experiment, "--with-model": with_model})
        lines = [to_tensorboard(found, Path(out))]
    else:
        from flserver.record.to_mlflow import to_mlflow

        lines = [*to_mlflow(found, out, experiment or "flserver", with_model=with_model)]
    answer({"run_id": found.run_id, "to": to, "out": out, "lines": lines}, lines, as_json)


def _only(option: str, given: dict[str, object]) -> None:
    """Raise UsageError where one of these is ``given``, which go with ``option`` alone."""
    for name, value in given.items():
        if value:
            raise UsageError(f"{name} goes with {option}")


def _rows(
    ctx: click.Context,
    run: str | None,
    kind: "Form",
    out: str | None,
    view: str | None,
    db: str | None,
    *,
    as_json: bool,
    raw: bool,
) -> None:
    from flserver.record.views_out import views, write_all, write_view

    record = reader(ctx, db)
    found = record.run(run)
    if out is None:
        raise UsageError("--out says where to: a new folder, or - with --view")
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
        say_json(manifest)
    else:
        rows = sum(each["rows"] for each in manifest["views"].values())
        click.echo(f"{out}: {rows} rows of {len(manifest['views'])} views of run {found['run_id']}")
