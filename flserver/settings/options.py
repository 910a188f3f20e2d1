"""A table of settings as command-line options: flag > environment > ``--config`` file > default."""

import functools
import json
import math
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from flserver.errors import EXIT_INTERRUPTED, FlserverError, UsageError
from flserver.settings import Setting, parse_tristate
from flserver.settings.folders import folder_of
from flserver.settings.places import place_of
from flserver.settings.setting import CAP, Kind
from flserver.text import did_you_mean, printable

Settings = tuple[Setting, ...]

# What a key may be in a file. Click would take 3.7 for an int and true for a number.
_TOML_TYPES: dict[Kind, tuple[type, ...]] = {
    "str": (str, int, float),  # client-id = 3, max-update-norm = 0.5
    "path": (str,),
    "place": (str,),
    "choice": (str,),
    "int": (int,),
    "float": (int, float),
    "share": (str, int, float),
    "bool": (bool,),
    "tristate": (bool,),
}
_SOURCES = {
    ParameterSource.COMMANDLINE: "flag",
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.DEFAULT_MAP: "file",
}


class _Tristate(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions of click
    name = "boolean"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool | None:
        try:
            return parse_tristate(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class _Place(click.Path):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        folder_of(str(value))  # said before anything shows it
        return super().convert(value, param, ctx)


class _FiniteRange(click.FloatRange):
    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):  # passes every comparison with a bound
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


class _Share(_FiniteRange):
    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value.startswith(CAP):
            return f"{CAP}{super().convert(value.removeprefix(CAP), param, ctx)}"
        return super().convert(value, param, ctx)


def options(settings: Settings) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that gives a click command an option for each setting, ``--config`` and ``--print-config``.

    The function is called with one keyword argument a setting, by its ``key``. With ``--print-config`` the values are
    printed as TOML instead, and the command ends with exit code 0. For the environment, run the command with click's
    ``auto_envvar_prefix`` (:func:`run` does); an empty variable counts as unset.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(*args: Any, print_config_and_exit: bool, **values: Any) -> Any:
            if print_config_and_exit:
                click.echo(print_config(values, settings), nl=False)
                click.get_current_context().exit(0)
            return function(*args, **values)

        decorated: Callable[..., Any] = click.option(
            "--print-config", "print_config_and_exit", is_flag=True, help="Print the settings as TOML and exit."
        )(command)
        decorated = click.option(
            "--config",
            type=click.Path(),
            metavar="FILE",
            is_eager=True,  # before the options whose values it holds
            expose_value=False,
            callback=functools.partial(_take_file, settings),
            help="Read settings from a TOML file: option names as keys, as --print-config prints them.",
        )(decorated)
        for setting in reversed(settings):
            decorated = _option(setting)(decorated)
        return decorated

    return decorate


def _take_file(settings: Settings, ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.default_map = load_config(Path(value), settings)


def _option(setting: Setting) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    common = {"default": setting.default, "help": setting.help, "show_default": setting.default is not None}
    names = [f"--{setting.name}", setting.key]
    match setting.kind:
        case "bool":
            return click.option(f"--{setting.name}/--no-{setting.name}", setting.key, **common)
        case "tristate":  # is_flag=False with a flag_value: the option's own value may be left out
            tristate = _Tristate()
            return click.option(*names, type=tristate, is_flag=False, flag_value="True", metavar="[BOOL]", **common)
        case "choice":
            return click.option(*names, type=click.Choice(setting.choices), **common)
        case "int":
            whole = click.IntRange(_whole(setting.minimum), _whole(setting.maximum))
            return click.option(*names, type=whole, metavar=setting.metavar or "INT", **common)
        case "float":
            finite = _FiniteRange(setting.minimum, setting.maximum)
            return click.option(*names, type=finite, metavar=setting.metavar or "FLOAT", **common)
        case "share":
            share = _Share(setting.minimum, setting.maximum)
            return click.option(*names, type=share, metavar=setting.metavar or "SHARE", **common)
        case "path":
            return click.option(*names, type=click.Path(), metavar=setting.metavar or "PATH", **common)
        case "place":
            return click.option(*names, type=_Place(), metavar=setting.metavar or "PATH", **common)
        case "str":
            return click.option(*names, type=str, metavar=setting.metavar or "TEXT", **common)


def _whole(bound: float | None) -> int | None:
    return None if bound is None else int(bound)


def load_config(path: Path, settings: Settings) -> dict[str, Any]:
    """The values in a TOML file, by ``key``.

    Raises UsageError where the file cannot be read, or holds an unknown key or a value of another type.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read --config {path}: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise UsageError(f"--config {path} is not TOML: {error}") from error
    known = {setting.name: setting for setting in settings}
    for name, value in content.items():
        if name not in known:
            meant = did_you_mean(name.replace("_", "-"), known)
            raise UsageError(f"--config {path}: there is no setting {name!r}{meant}")
        kind = known[name].kind
        if not isinstance(value, _TOML_TYPES[kind]) or (isinstance(value, bool) and kind not in ("bool", "tristate")):
            raise UsageError(f"--config {path}: {name} is a {type(value).__name__}, not a {kind}")
    return {known[name].key: value for name, value in content.items()}


def print_config(values: Mapping[str, Any], settings: Settings) -> str:
    """``values`` (by ``key``) as a TOML file that ``--config`` reads back; what is not set is a comment."""
    if values.get("db"):
        place_of(values["db"])  # a password is not shown
    lines = []
    for setting in settings:
        value = values[setting.key]
        lines.append(f"# {setting.name} is not set" if value is None else f"{setting.name} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    # JSON's true, false, numbers and strings are TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def sources(ctx: click.Context) -> dict[str, str]:
    """Where each option's value came from, by key: ``flag``, ``environment``, ``file`` or ``default``."""
    found = {name: ctx.get_parameter_source(name) for name in ctx.params}
    return {name: _SOURCES.get(source, "default") if source else "default" for name, source in found.items()}


def unknown_variables(ctx: click.Context) -> list[str]:
    """A line for each variable in the environment that is named as this program's settings are, and is none."""
    prefix = f"{ctx.auto_envvar_prefix}_"
    known = set(_variables(ctx.command))
    given = sorted(name.removeprefix(prefix) for name in os.environ if name.startswith(prefix))
    return [
        f"{prefix}{printable(name)} is no setting, and is ignored{did_you_mean(name, known, before=prefix)}"
        for name in given
        if name not in known
    ]


def _variables(command: click.Command, before: str = "") -> Iterator[str]:
    """The variables that click looks at for ``command`` and for the commands in it, without the program's prefix."""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield f"{before}{parameter.name}".upper()
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from _variables(child, f"{before}{name}_".replace("-", "_"))


def run(
    command: click.Command,
    prefix: str,
    args: list[str] | None = None,
    *,
    obj: object = None,
    failed: Callable[[str, int], None] | None = None,
) -> int:
    """Run a click command and give its exit code (None counts as 0).

    Options come from ``{prefix}_*`` in the environment too. What the person or the project did wrong (click's errors
    and FlserverError) is one line on standard error; ``failed`` is told it too, with the exit code. ``obj`` is the
    context's.
    """
    name = command.name
    try:
        result = command.main(args, prog_name=name, standalone_mode=False, auto_envvar_prefix=prefix, obj=obj)
    except click.ClickException as error:
        code, message = error.exit_code, error.format_message()
    except FlserverError as error:
        code, message = error.exit_code, str(error)
    except click.Abort:  # Ctrl-C where nothing of ours waits for it yet: nothing was begun that is not whole
        code, message = EXIT_INTERRUPTED, "interrupted"
    else:
        return int(result or 0)
    said = " ".join(message.split())
    click.echo(f"{name}: {said}", err=True)
    if failed is not None:
        failed(said, code)
    return code
