"""The command that takes a run to other tools."""

import os
from pathlib import Path

import click

from flserver.cli.common import checkpoint_dir_option, database, db_option
from flserver.errors import UsageError


@click.command("export")
@click.argument("run", default="newest")
@click.option("--to", type=click.Choice(["mlflow", "tensorboard"]), required=True, help="Which tool's.")
@click.option(
    "--out",
    metavar="URI|FOLDER",
    help="MLflow's tracking URI (default: MLFLOW_TRACKING_URI), or the folder that tensorboard --logdir shows.",
)
@click.option("--experiment", default="flserver", show_default=True, help="MLflow's.")
@click.option("--with-model", is_flag=True, help="The last round's checkpoint too, as an artifact of MLflow's.")
@checkpoint_dir_option
@db_option
@click.pass_context
def export(
    ctx: click.Context,
    run: str,
    to: str,
    out: str | None,
    experiment: str,
    with_model: bool,
    checkpoint_dir: Path | None,
    db: str | None,
) -> None:
    """Rebuild RUN (default: the newest) in MLflow or TensorBoard. A second time adds what is new only."""
    from flserver import record

    out = out or (os.environ.get("MLFLOW_TRACKING_URI") if to == "mlflow" else None)
    if not out:
        raise UsageError(f"--to {to} needs --out: {'a tracking URI' if to == 'mlflow' else 'a folder'}")
    found = record.open(database(ctx, db), checkpoint_dir).run(run)
    if to == "tensorboard":
        from flserver.record.to_tensorboard import to_tensorboard

        click.echo(to_tensorboard(found, Path(out)))
    else:
        from flserver.record.to_mlflow import to_mlflow

        for line in to_mlflow(found, out, experiment, with_model=with_model):
            click.echo(line)
