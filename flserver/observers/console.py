"""The run on the operator's screen: one log line an event worth one, or a live view on a terminal."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flserver.clock import utc_text
from flserver.events import Event
from flserver.observers.log_lines import Lines, counted
from flserver.observers.tally import Tally
from flserver.text import json_plain, json_text, printable, three_decimals

logger = logging.getLogger("flserver.events")

SHOWN_LINES = 8  # of the newest, above the progress
REFRESH_SECONDS = 0.25  # between two drawings
BAR_WIDTH = 20  # characters


class LogConsole:
    """Logs each event worth a line to ``flserver.events``; Python's log record carries the event too, as ``event``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _lines; never held while logging
        self._lines = Lines()

    def observe(self, event: Event) -> None:
        with self._lock:
            line = self._lines.of(event)
        if line is not None:
            level, text = line
            logger.log(level, "%s", text, extra={"event": event})


class JsonFormatter(logging.Formatter):
    """One JSON object a line: at, level, logger, message, and where there are any, event and exception.

    ``event`` holds the event's type and fields.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": utc_text(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        event = getattr(record, "event", None)
        if isinstance(event, Event):
            line["event"] = {"type": type(event).__name__} | json_plain(event)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json_text(line)


class LiveConsole:
    """A live view of the run on a terminal, with the log lines of ``level`` (logging's numbers) and above.

    ``observe`` only counts; a thread of its own draws four times a second. ``handler`` takes the log lines of the rest
    of the process into the view, where a handler that writes to the same terminal would tear it.
    """

    def __init__(self, console: Console, level: int = logging.NOTSET) -> None:
        self._level = level
        self._lock = threading.Lock()  # guards the three below; never held while drawing
        self._tally = Tally()
        self._lines = Lines()
        self._shown: deque[tuple[int, str]] = deque(maxlen=SHOWN_LINES)
        self.handler: logging.Handler = _Handler(self)
        # rich's own refresh thread is not used: stop() does not join it.
        self._live = Live(
            console=console,
            get_renderable=self._render,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="console", daemon=False)

    def start(self) -> None:
        """Draw from now on. The terminal may go away at any time: that ends the view, not the run."""
        if self._on_terminal(lambda: self._live.start(refresh=True)):
            self._thread.start()

    def close(self) -> None:
        """Draw once more, and leave that on the screen with one line that sums the run up."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()
        with self._lock:
            summary = _summary(self._tally)
        if self._on_terminal(self._live.stop):
            self._on_terminal(lambda: self._live.console.print(Text(summary, style="bold")))

    def _draw(self) -> None:
        while not self._closing.wait(REFRESH_SECONDS) and self._on_terminal(self._live.refresh):
            pass

    def _on_terminal(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except OSError as error:
            logging.getLogger(__name__).warning("the terminal is gone: %s", error)
            return False
        return True

    def observe(self, event: Event) -> None:
        with self._lock:
            self._tally.observe(event)
            line = self._lines.of(event)
            if line is not None and line[0] >= self._level:
                self._shown.append(line)

    def show(self, level: int, text: str) -> None:
        """Add a line (a logging level and its text) above the progress."""
        with self._lock:
            self._shown.append((level, printable(text)))

    def _render(self) -> RenderableType:
        with self._lock:
            lines = [Text(text, style=_style(level), overflow="fold") for level, text in self._shown]
            return Group(*lines, _progress(self._tally))


class _Handler(logging.Handler):
    """Shows what it is given in the live view, and does no IO."""

    def __init__(self, live: LiveConsole) -> None:
        super().__init__()
        self._live = live

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {record.exc_info[1]!r}"
        self._live.show(record.levelno, text)


def _progress(tally: Tally) -> Table:
    """One line; where the terminal is narrow the bar is shorter."""
    words = [
        Text(tally.state or "starting", style="bold"),
        Text(_rounds(tally.current_round, tally)),
        Text(f"{tally.round_updates}/{tally.participants} updates"),
        Text(counted(tally.connected_clients, "client")),
        *map(Text, _quality(tally)),
    ]
    bar = ProgressBar(total=max(tally.participants, 1), completed=tally.round_updates)
    row = Table.grid(padding=(0, 2))
    for _ in words[:2]:
        row.add_column(no_wrap=True)
    row.add_column(max_width=BAR_WIDTH)
    for _ in words[2:]:
        row.add_column(no_wrap=True)
    row.add_row(*words[:2], bar, *words[2:])
    return row


def _rounds(number: int | None, tally: Tally) -> str:
    return f"round {_or_dash(number)}/{_or_dash(tally.planned_rounds)}"


def _or_dash(number: int | None) -> str:
    return "-" if number is None else str(number)


def _quality(tally: Tally) -> list[str]:
    last = tally.last
    numbers = (("loss", last.loss), ("accuracy", last.accuracy)) if last else ()
    return [f"{name} {three_decimals(value)}" for name, value in numbers if value is not None]


def _summary(tally: Tally) -> str:
    committed = f"{_rounds(tally.last.round, tally)} committed" if tally.last else "no round committed"
    return "run " + ", ".join((tally.state or "not started", committed, *_quality(tally)))


def _style(level: int) -> str:
    return "red" if level >= logging.ERROR else "yellow" if level >= logging.WARNING else ""
