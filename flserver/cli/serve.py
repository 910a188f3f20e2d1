"""A bare ``flserver``: logging and the console, then the server."""

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from flserver.settings import server_settings


def serve(values: Mapping[str, Any], given: Mapping[str, Any], warnings: Sequence[str], *, typed: bool) -> int:
    """Serve a run with the settings ``values``, of which ``given`` were not left to their default; ``warnings`` go into
    the log; ``typed`` says whether the run's name was typed at a terminal. The exit code."""
    from flserver.observers.console import JsonFormatter, LiveConsole, LogConsole
    from flserver.process.launch import launch
    from flserver.process.signals import unheard

    settings = server_settings(values)
    level = getattr(logging, values["log_level"].upper())
    with ExitStack() as stack:
        console: Any
        if sys.stderr.isatty() and values["log_format"] == "text":
            from rich.console import Console

            console = LiveConsole(Console(stderr=True), level)
            handler = console.handler
            with unheard():
                console.start()
            stack.callback(console.close)
        else:
            console = LogConsole()
            handler = logging.StreamHandler(sys.stderr)
            text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
            handler.setFormatter(JsonFormatter() if values["log_format"] == "json" else text)
        logging.basicConfig(level=level, handlers=[handler], force=True)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        for warning in warnings:
            logging.getLogger(__name__).warning("%s", warning)
        return launch(settings, given, [console], logging.getLogger("flserver").info, typed=typed)
