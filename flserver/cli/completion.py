"""The command that prints what a shell needs to complete commands, options and runs."""

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script with which bash or zsh completes flserver's commands, options and runs.

    In ~/.bashrc: eval "$(flserver completion bash)"; in ~/.zshrc, after compinit: eval "$(flserver completion zsh)".
    Where RUN stands, it completes the runs of the database that --db names before it.
    """
    root = ctx.find_root()
    kind = get_completion_class(shell)
    assert kind is not None, "click has both"
    click.echo(kind(root.command, {}, "flserver", "_FLSERVER_COMPLETE").source())
