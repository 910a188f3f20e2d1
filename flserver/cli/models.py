"""The commands about models."""

from pathlib import Path

import click

from flserver.cli.common import checkpoint_dir_option, database, db_option, reader, run_argument


@click.command("export-model")
@run_argument
@click.option("--round", "which", default="last", show_default=True, metavar="N|best|last", help="Which round's model.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="FILE.safetensors, or FILE.pt: a state_dict.",
)
@checkpoint_dir_option
@db_option
@click.pass_context
def export_model(
    ctx: click.Context, run: str | None, which: str, out: Path, checkpoint_dir: Path | None, db: str | None
) -> None:
    """Write the model of one round of RUN to a file, after its digest was checked."""
    from flserver.audit.export import export

    click.echo(export(reader(ctx, db), run, which, out, checkpoint_dir, database(ctx, db)))
