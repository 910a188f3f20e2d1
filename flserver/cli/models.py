"""The commands about models."""

from pathlib import Path

import click

from flserver.cli.common import (
    answer,
    checkpoint_dir_option,
    database,
    db_option,
    json_option,
    reader,
    run_argument,
)
from flserver.settings.folders import Folder


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
@click.option("--licence", metavar="SPDX", help="The model's licence, for FILE.json: Apache-2.0, say.")
@click.option("--embed", is_flag=True, help="Put what FILE.json says into the .safetensors too: its digest is another.")
@json_option
@checkpoint_dir_option
@db_option
@click.pass_context
def export_model(
    ctx: click.Context,
    run: str | None,
    which: str,
    out: Path,
    licence: str | None,
    embed: bool,
    as_json: bool,
    checkpoint_dir: Folder | None,
    db: str | None,
) -> None:
    """Write the model of one round of RUN to a file, after its digest was checked, and where it comes from to a .json
    beside it. A .safetensors file is the checkpoint itself: sha256sum shows the digest that is on record."""
    from flserver.audit.export import export
    from flserver.store.schema import check

    database_path = database(ctx, db)
    check(database_path)
    made = export(reader(ctx, db), run, which, out, checkpoint_dir, database_path, licence=licence, embed=embed)
    answer(vars(made), made.lines, as_json)
