"""The command line's root: its options are the server's settings, its commands stand in the files beside it.

A bare ``flserver`` serves, and ``check`` sees whether it could. The others ask a database, also while a server
writes it, or maintain it. What is slow to import (torch, SQLAlchemy, alembic) is imported by the command that uses it.
"""

import functools
import sys
from typing import Any

import click

from flserver import __version__
from flserver.cli.ask import query, runs, show
from flserver.cli.backup import backup, restore
from flserver.cli.check import check
from flserver.cli.common import Asked, say_failed, typed
from flserver.cli.compare import compare
from flserver.cli.completion import completion
from flserver.cli.cookbook import ask
from flserver.cli.evidence import evidence
from flserver.cli.explore import explore
from flserver.cli.export import export
from flserver.cli.heads import keygen, prove
from flserver.cli.models import export_model
from flserver.cli.purge import purge
from flserver.cli.record import db, verify
from flserver.cli.replay import descendants, replay
from flserver.cli.report import report
from flserver.cli.simulate import simulate
from flserver.cli.tail import tail
from flserver.cli.witness import witness
from flserver.errors import EXIT_DONE
from flserver.settings import SERVER_SETTINGS
from flserver.settings.options import options, run, sources, unknown_variables


def run_cli(args: list[str] | None = None) -> int:
    """Run the command line (``sys.argv`` by default) and return its exit code. What it fails for is a line on standard
    error, and beside that an object on standard output where JSON is asked for."""
    asked, words = Asked(), sys.argv[1:] if args is None else args
    return run(cli, "FLSERVER", words, obj=asked, failed=functools.partial(say_failed, asked, words))


@click.group("flserver", invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="flserver")
@options(SERVER_SETTINGS)
@click.pass_context
def cli(ctx: click.Context, /, **values: Any) -> int:
    """Serve a federated-learning run to socket trainers, or ask a database about its runs.

    Every option can also be set as FLSERVER_NAME in the environment or as a key in a --config file. Exit codes: 0 done,
    1 failed, 2 usage, 3 interrupted and resumable.
    """
    ctx.ensure_object(Asked).db = values["db"]
    unknown = unknown_variables(ctx)
    if ctx.invoked_subcommand is not None:
        for line in unknown:
            click.echo(f"flserver: {line}", err=True)
        return EXIT_DONE
    given = {key: values[key] for key, source in sources(ctx).items() if source != "default" and key in values}
    from flserver.cli.serve import serve

    return serve(values, given, unknown, typed=typed(ctx, "run_name"))


for command in (
    check,
    runs,
    show,
    query,
    compare,
    tail,
    export,
    ask,
    explore,
    export_model,
    report,
    evidence,
    verify,
    purge,
    replay,
    descendants,
    backup,
    restore,
    prove,
    keygen,
    witness,
    simulate,
    db,
    completion,
):
    cli.add_command(command)
