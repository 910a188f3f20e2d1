"""``options.md``: the two tables of settings, as ``--help`` has them."""

from collections.abc import Mapping

import click

from flclient.cli import flclient
from flclient.settings import CLIENT_SETTINGS
from flserver.cli.main import cli
from flserver.settings import SERVER_SETTINGS, Setting
from tests.reference_pages.markdown import code, page, prose, table

INTRODUCTION = """
Every setting can be given in four ways, and what comes first in this list counts:

1. a **flag**: `--num-rounds 10`;
2. the **environment**: `FLSERVER_NUM_ROUNDS=10`, for the trainer `FLCLIENT_…`. An empty variable counts as
   unset, and one that is no setting is warned about;
3. a **file**: `--config FILE`, TOML with the options' names as keys: `num-rounds = 10`. `--print-config` prints the
   settings that would be in force, in this form, and ends;
4. the **default**.

A value out of its range or of another type, and in a file a name that there is not, end the command with exit code 2
and a line that says which. `--use-cuda`, bare or with `True`, means CUDA; `--use-cuda False` and `--use-cuda ''` mean
the CPU; asked for where there is none, CUDA is an error. The settings of a run are on record (`v1_runs.config`), and
`--resume` goes on with them: see [Resume](../README.md#resume).
"""


def options_page() -> str:
    return page(
        "Options",
        INTRODUCTION,
        "## flserver",
        _table(SERVER_SETTINGS, cli),
        "## flclient",
        _table(CLIENT_SETTINGS, flclient),
    )


def _table(settings: tuple[Setting, ...], command: click.Command) -> str:
    parameters = {parameter.name: parameter for parameter in command.params if isinstance(parameter, click.Option)}
    rows = [(_flag(parameters, s), _range(s), default_of(s), prose(s.help)) for s in settings]
    return table(("option", "range", "default", "meaning"), rows)


def _flag(parameters: Mapping[str | None, click.Option], setting: Setting) -> str:
    if setting.kind == "bool":
        return f"`--{setting.name}`/`--no-{setting.name}`"
    metavar = "|".join(setting.choices) or parameters[setting.key].metavar
    return code(f"--{setting.name} {metavar}")


def default_of(setting: Setting) -> str:
    """A setting's default as its row shows it; nothing where there is none, or the meaning says it."""
    if setting.default is None:
        return ""
    if setting.kind == "bool":
        return code(f"--{'' if setting.default else 'no-'}{setting.name}")
    return code(f"{setting.default:g}" if isinstance(setting.default, float) else setting.default)


def _range(setting: Setting) -> str:
    least, most = setting.minimum, setting.maximum
    if least is None:
        return ""
    return f"{_number(least)} to {_number(most)}" if most is not None else f"from {_number(least)}"


def _number(value: float) -> str:
    """Large round numbers as powers: nobody counts zeros."""
    whole = int(value)
    if whole != value or abs(whole) < 10**6:
        return f"{value:g}"
    if (text := str(whole)).strip("0") == "1":
        return "10" + _raised(len(text) - 1)
    for power, said in ((whole, ""), (whole + 1, " − 1")):
        if power & (power - 1) == 0:
            return f"2{_raised(power.bit_length() - 1)}{said}"
    return f"{whole:,}"


def _raised(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
