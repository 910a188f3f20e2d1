"""``commands.md``: the command lines as click has them, with the exit codes that their help states."""

import textwrap
from collections.abc import Iterator, Sequence

import click

from flclient.cli import flclient
from flclient.settings import CLIENT_SETTINGS
from flserver.cli.main import cli
from flserver.settings import SERVER_SETTINGS, Setting
from tests.reference_pages.markdown import Undescribed, check_described, code, page, prose, table
from tests.reference_pages.meanings import PARAMETERS

INTRODUCTION = """
A bare `flserver` serves, and `flserver check` sees whether it could. The other commands read a database, also while a
server writes it. `--db` stands before or after a command's name. RUN is a run's name (of several runs with one name it
means the newest), its run_id, the beginning of one, or `newest`; left out it is the newest. `--help` or `-h` prints
what a command takes; `python -m flserver` and `python -m flclient` do the same as the two scripts.

Exit codes are 0 for done, 2 for what cannot be done as it was asked for (one line on standard error says why), and
those that a command's text names. [What to do then](../README.md#stop) is in the handbook.
"""


REQUIRED = " Required."
"""How the help ends of an option that the command asks for, and not click: a group's, or one of two ways."""


def commands_page(server: click.Command = cli, client: click.Command = flclient) -> str:
    """Raises Undescribed where an argument, or an option without a help text, has no meaning."""
    found = [("flserver", server, SERVER_SETTINGS), *_below("flserver", server), ("flclient", client, CLIENT_SETTINGS)]
    silent = [_key(command, each) for _, command, _ in found for each in command.params if not _help(each)]
    check_described("parameters", silent, PARAMETERS)
    overview = table(
        ("command", "what it does"),
        [(f"[{code(name)}](#{name.replace(' ', '-')})", _text(command)[0]) for name, command, _ in found],
    )
    return page("Commands", INTRODUCTION, overview, *(_section(*each) for each in found))


def _below(path: str, command: click.Command) -> Iterator[tuple[str, click.Command, tuple[Setting, ...]]]:
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            if not isinstance(child, click.Group) or child.invoke_without_command:
                keys = {parameter.name for parameter in child.params}
                all_of_them = keys >= {setting.key for setting in SERVER_SETTINGS}
                yield f"{path} {name}", child, SERVER_SETTINGS if all_of_them else ()
            yield from _below(f"{path} {name}", child)


def _section(name: str, command: click.Command, settings: Sequence[Setting]) -> str:
    arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    keys = {setting.key for setting in settings}
    rows = [(code(_metavar(argument)), "", _meaning(command, argument)) for argument in arguments]
    options = [p for p in command.params if isinstance(p, click.Option) and p.name not in keys]
    rows += [(code(_flag(option)), _default(option), _meaning(command, option)) for option in options]
    usage = " ".join([name, *(_metavar(argument) for argument in arguments), "[OPTIONS]"])
    text = "\n\n".join(textwrap.fill(paragraph, 120, break_on_hyphens=False) for paragraph in _text(command))
    if settings:
        text += f"\n\nIts settings are in [options.md](options.md#{name.split()[0]}); beside them it takes:"
    return f"## {name}\n\n```\n{usage}\n```\n\n{text}\n\n" + table(("takes", "default", "meaning"), rows)


def _text(command: click.Command) -> list[str]:
    """The help text: what the command does, then its further paragraphs."""
    if not command.help:
        raise Undescribed(f"the command {command.name} has no help text")
    told = []
    for paragraph in command.help.split("\n\n"):
        said, example, line = " ".join(paragraph.split()).rpartition("For example: ")
        told.append(prose(said) + example + code(line) if example else prose(line))
    return told


def _help(parameter: click.Parameter) -> str | None:
    return parameter.help if isinstance(parameter, click.Option) else None


def _key(command: click.Command, parameter: click.Parameter) -> str:
    """Under which its meaning stands: the command's name before its own, where several commands mean other things."""
    own = f"{command.name} {parameter.name}"
    return own if own in PARAMETERS else str(parameter.name)


def _meaning(command: click.Command, parameter: click.Parameter) -> str:
    said = _help(parameter)
    return PARAMETERS[_key(command, parameter)] if said is None else prose(said.removesuffix(REQUIRED))


def _metavar(argument: click.Argument) -> str:
    return argument.metavar or str(argument.name).upper()


def _flag(option: click.Option) -> str:
    choices = "|".join(map(str, option.type.choices)) if isinstance(option.type, click.Choice) else ""
    value = "" if option.is_flag else f" {option.metavar or choices}"
    return option.opts[0] + value


def _default(option: click.Option) -> str:
    if option.required or (option.help or "").endswith(REQUIRED):
        return "required"
    return code(option.default) if option.show_default and option.default is not None else ""
