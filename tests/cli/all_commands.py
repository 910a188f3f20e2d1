"""All commands that can be typed, and which have no ``--json``."""

from collections.abc import Iterator

import click

WITHOUT = {
    "explore": "it serves pages until it is stopped",
    "completion": "it prints a shell's script",
    "db roles": "it prints psql's script",
}
"""The commands that have nothing for a program, and why."""


def commands(group: click.Group, before: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """All that can be typed, those of groups too."""
    for name, command in group.commands.items():
        words = (*before, name)
        if isinstance(command, click.Group):
            yield from commands(command, words)
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield " ".join(words), command
