"""The command that shows the record in a browser."""

import sys

import click

from flserver.cli.common import database, db_option


@click.command("explore")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    metavar="PORT",
    help="The port; 0 takes any free one.",
)
@click.option("--no-browser", is_flag=True, help="Only say where it is.")
@db_option
@click.pass_context
def explore(ctx: click.Context, port: int, no_browser: bool, db: str | None) -> None:
    """Show the record in a browser, on this machine alone: the v1_ views, and the questions that ask answers.

    It can only be read, also while a server writes it. It is datasette, which the extra explore brings. Ctrl-C ends it.
    """
    from flserver.record.explore import explore as serve

    serve(database(ctx, db), port, browser=not no_browser and sys.stdout.isatty(), say=click.echo)
