"""Whether a start would succeed."""

from typing import Any

import click

from flserver.cli.common import typed
from flserver.settings import SERVER_SETTINGS, server_settings
from flserver.settings.options import options, sources

RANKS = {"flag": 0, "environment": 1, "file": 2, "default": 3}


@click.command("check", context_settings={"auto_envvar_prefix": "FLSERVER"})  # the same variables as for a start
@options(SERVER_SETTINGS)
@click.pass_context
def check(ctx: click.Context, /, **values: Any) -> int:
    """Do every check of a start with the same options, say what all rounds will take on the disk, and leave nothing.

    The options stand before the word or after it. What cannot be done is a line each on standard error. Exit codes: 0
    all is well, 2 something cannot be done.
    """
    from flserver.process.check import check as check_start

    before = ctx.parent
    assert before is not None, "a command of flserver's"
    own, its = sources(ctx), sources(before)
    nearer = {key: own[key] if RANKS[own[key]] <= RANKS[its[key]] else its[key] for key in values}
    meant = {key: values[key] if nearer[key] == own[key] else before.params[key] for key in values}
    given = {key: meant[key] for key in values if nearer[key] != "default"}
    return check_start(
        server_settings(meant),
        given,
        click.echo,
        lambda line: click.echo(f"flserver: {line}", err=True),
        typed=typed(ctx, "run_name") or typed(before, "run_name"),
    )
