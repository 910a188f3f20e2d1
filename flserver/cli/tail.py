"""The command that follows a live run, from its record or, on another machine, from its metrics."""

import http.client
import json
import logging
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from flserver.cli.common import database, db_option, reader, run_argument
from flserver.clock import Deadline, utc_now
from flserver.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, UsageError

if TYPE_CHECKING:
    from flserver.record.following import Following
    from flserver.record.metrics_page import Seen

INTERVAL = 0.5  # seconds between two looks
ASKING = 10.0  # seconds that a server may take to answer
RESTART = 60.0
"""Seconds that an interrupted run, or a server that does not answer, is waited for without ``--wait``."""
MOST_BYTES = 1 << 24  # of an answer


@click.command("tail")
@run_argument
@click.option("--lines", "first", type=click.IntRange(min=0), default=10, show_default=True, help="So many older ones.")
@click.option("--wait", is_flag=True, help="Wait for what is not there yet, and past interruptions, without an end.")
@click.option(
    "--from-metrics",
    "url",
    metavar="URL",
    help="Follow http://host:9464, a server's metrics port, in place of a database: no client is named there.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=INTERVAL,
    show_default=True,
    metavar="SECONDS",
    help="Seconds between two looks.",
)
@db_option
@click.pass_context
def tail(
    ctx: click.Context,
    run: str | None,
    first: int,
    wait: bool,
    url: str | None,
    as_json: bool,
    interval: float,
    db: str | None,
) -> int:
    """Follow RUN, which may be live: rounds, joins and drop-outs, refusals and decisions, a line each as they commit.

    It ends when the run does, with the run's exit code: 0 completed, 1 failed, 3 interrupted, once it has not been
    resumed for a minute. Ctrl-C ends it at any time, with 0.
    """
    pace = _Pace(interval, wait)
    try:
        if url is None:
            return _from_record(ctx, db, run, pace, first, as_json)
        if run is not None:
            raise UsageError("--from-metrics follows whatever run the server has: leave RUN out")
        return _from_metrics(url, pace, as_json)
    except KeyboardInterrupt:
        return EXIT_DONE


class _Pace:
    """When to look again, and how long for what is not there."""

    def __init__(self, interval: float, wait: bool) -> None:
        self.wait = wait
        self._interval = interval
        self._never = Event()  # nobody sets it, and Ctrl-C ends the waiting for it at once
        self._patience: Deadline | None = None
        self._said: str | None = None

    def pause(self) -> None:
        """All is there: look again after the interval."""
        self._patience, self._said = None, None
        self._never.wait(self._interval)

    def goes_on(self, why: str) -> bool:
        """Something is not there; ``why``, is said once. Whether it is waited for any longer, after the interval."""
        self._patience = self._patience or Deadline.after(RESTART)
        if why != self._said:
            click.echo(f"flserver tail: {' '.join(why.split())}", err=True)
            self._said = why
        if self._patience.passed and not self.wait:
            return False
        self._never.wait(self._interval)
        return True


def _from_record(ctx: click.Context, db: str | None, run: str | None, pace: _Pace, first: int, as_json: bool) -> int:
    following = _begun(ctx, db, run, pace)
    for told in deque(following.more(), maxlen=first):
        _say(told.text, told.at, as_json, told.level, seq=told.seq, type=told.type)
    if following.status == "interrupted" and not pace.wait:
        return EXIT_INTERRUPTED
    if following.status == "running" and not _served(database(ctx, db)):
        click.echo("flserver tail: no server has the database open: the run waits for a resumption", err=True)
    while following.status in ("running", "interrupted"):
        if following.status == "running":
            pace.pause()
        elif not pace.goes_on("the run is interrupted: waiting for its resumption"):
            return EXIT_INTERRUPTED
        try:
            for told in following.more():
                _say(told.text, told.at, as_json, told.level, seq=told.seq, type=told.type)
        except UsageError as error:
            if not pace.goes_on(str(error)):
                raise
    return EXIT_DONE if following.status == "completed" else EXIT_FAILED


def _begun(ctx: click.Context, db: str | None, run: str | None, pace: _Pace) -> "Following":
    """The run, once it is there. Raises UsageError where it is not, and is not waited for."""
    from flserver.record.following import Following

    while True:
        try:
            record = reader(ctx, db)
            return Following(record, record.run(run)["run_id"])
        except UsageError as error:
            if not pace.wait:
                raise
            pace.goes_on(f"{error}: waiting for it")


def _served(path: Path) -> bool:
    from flserver.store.lock import holder

    return holder(path) is not None


def _from_metrics(url: str, pace: _Pace, as_json: bool) -> int:
    from flserver.record.metrics_page import Seen, lines

    base, before, there = _base(url), Seen(), False
    while True:
        try:
            now = _look(base)
        except UsageError as error:
            if there and before.committed >= before.planned:
                return EXIT_DONE  # it was complete, and its server has gone
            if not (there or pace.wait):
                raise
            if not pace.goes_on(str(error)):
                return EXIT_INTERRUPTED
            continue
        for line in lines(before, now):
            _say(line, utc_now(), as_json)
        before, there = now, True
        if now.state in ("completed", "failed"):
            return EXIT_DONE if now.state == "completed" else EXIT_FAILED
        pace.pause()


def _base(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(f"--from-metrics {url}: not of the form http://host:9464")
    return f"{parts.scheme}://{parts.netloc}"


def _look(base: str) -> "Seen":
    """Raises UsageError where no server of ours answers."""
    from flserver.record.metrics_page import seen

    try:
        return seen(_asked(f"{base}/metrics"), _asked(f"{base}/healthz"))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UsageError(f"{base} gives no metrics of a server: {getattr(error, 'reason', None) or error}") from error


def _asked(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=ASKING) as answer:
            return str(answer.read(MOST_BYTES).decode())
    except urllib.error.HTTPError as error:
        with error:
            if error.code != http.HTTPStatus.SERVICE_UNAVAILABLE:  # which /healthz answers of an ill server
                raise
            return error.read(MOST_BYTES).decode()


def _say(text: str, at: str, as_json: bool, level: int = logging.INFO, **more: Any) -> None:
    if as_json:
        line = {"at": at, "level": logging.getLevelName(level).lower(), "message": text} | more
        click.echo(json.dumps(line))
    elif sys.stdout.isatty():
        shown = f"{datetime.fromisoformat(at).astimezone():%H:%M:%S %Z}  {text}"
        click.secho(shown, fg="yellow" if level >= logging.WARNING else None)
    else:
        click.echo(f"{at} {logging.getLevelName(level)} {text}")
