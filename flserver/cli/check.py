"""Whether a start would succeed."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from flserver.cli.common import json_option, say_json, typed
from flserver.errors import EXIT_DONE
from flserver.settings import SERVER_SETTINGS, server_settings
from flserver.settings.options import options, sources

RANKS = {"flag": 0, "environment": 1, "file": 2, "default": 3}


@click.command("check", context_settings={"auto_envvar_prefix": "FLSERVER"})  # the same variables as for a start
@options(SERVER_SETTINGS)
@json_option
@click.pass_context
def check(ctx: click.Context, /, as_json: bool, **values: Any) -> int:
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
    by_name = typed(ctx, "run_name") or typed(before, "run_name")
    if not as_json:
        with _leaving_nothing(_tell):
            return check_start(server_settings(meant), given, click.echo, _tell, typed=by_name)
    well: list[str] = []
    problems: list[str] = []
    warnings: list[str] = []
    with _leaving_nothing(warnings.append):
        code = check_start(server_settings(meant), given, well.append, problems.append, typed=by_name)
    say_json({"ok": code == EXIT_DONE, "well": well, "warnings": warnings, "problems": problems})
    return code


@contextmanager
def _leaving_nothing(warn: Callable[[str], None]) -> Iterator[None]:
    """Within the block, what a start's log would warn of is told to ``warn``, a line each, and Python keeps nothing of
    what it compiles of the operator's modules."""
    logger, handler, before = logging.getLogger("flserver"), _Warnings(warn), sys.dont_write_bytecode
    logger.addHandler(handler)
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
        logger.removeHandler(handler)


class _Warnings(logging.Handler):
    def __init__(self, warn: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._warn = warn

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._warn(record.getMessage() if error is None else f"{record.getMessage()}: {error!r}")


def _tell(line: str) -> None:
    click.echo(f"flserver: {' '.join(line.split())}", err=True)
