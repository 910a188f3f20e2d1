"""The command that follows a live run, from its record or, on another machine, from its metrics."""

import http.client
import logging
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from contextlib import suppress
from datetime import datetime
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from flserver.cli.common import database, db_option, interval_option, json_flag, reader, run_argument, say_json
from flserver.clock import Deadline, utc_now, utc_timestamp
from flserver.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, UsageError
from flserver.settings.places import Place
from flserver.text import printable

if TYPE_CHECKING:
    from flserver.record.following import Following, Told
    from flserver.record.metrics_page import Seen

INTERVAL = 0.5  # seconds between two looks
ASKING = 10.0  # seconds that a server may take to answer
RESTART = 60.0
"""Seconds that an interrupted run, or a server that does not answer, is waited for without ``--wait``."""
EXITS = {"completed": EXIT_DONE, "failed": EXIT_FAILED, "interrupted": EXIT_INTERRUPTED}
MOST_BYTES = 1 << 24  # of an answer


@click.command("tail")
@run_argument
@click.option(
    "--lines",
    "first",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="N",
    help="Begin with so many older lines.",
)
@click.option(
    "--wait",
    is_flag=True,
    help="Wait, without an end, for what is not there yet: the next run, a resumption. It ends when that run does.",
)
@click.option(
    "--from-metrics",
    "url",
    metavar="URL",
    help="Follow http://host:9464, a server's metrics port, in place of a database: no client is named there.",
)
@json_flag("A JSON object a line.")
@interval_option(0.1, INTERVAL, 3600)
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

    First it says which run that is and how it is. Of one that is over it prints the last lines; with --wait it waits
    for the next run, or for a RUN that is named to be resumed or to begin anew.

    It ends when the run does, with the run's exit code: 0 completed, 1 failed, 3 interrupted, or left by a server that
    was killed, once it has not been resumed for a minute. Ctrl-C ends it at any time, with 0.
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
            _note(why)
            self._said = why
        if self._patience.passed and not self.wait:
            return False
        self._never.wait(self._interval)
        return True


def _from_record(ctx: click.Context, db: str | None, run: str | None, pace: _Pace, first: int, as_json: bool) -> int:
    from flserver.store.database import at

    path, following = database(ctx, db), _begun(ctx, db, run, pace)
    older = deque(following.more(), maxlen=first)
    _note(_headline(following, path))
    if pace.wait and following.status in ("completed", "failed"):
        following = _next(ctx, db, run, pace, following)
    else:
        for told in older:
            _tell(told, as_json)
        if following.status != "running" and not pace.wait:
            what = "the next" if run is None else "its resumption, or the next of its name"
            _note(f"it is over ({_state(following, path)}); --wait waits for {what}")
            return EXITS[following.status]
    while True:
        # Before the events are read: whoever ends a run says so before letting the database go.
        free = at(path).unheld(following.run["run_id"]) is not None
        try:
            for told in following.more():
                _tell(told, as_json)
        except UsageError as error:
            if not pace.goes_on(str(error)):
                raise
            continue
        if following.status in ("completed", "failed"):
            return EXITS[following.status]
        if following.status == "running" and not free:
            pace.pause()
        elif pace.goes_on(_left(following, path, pace.wait)):
            following = (_another(ctx, db, run, following) if pace.wait else None) or following
        else:
            _note(f"nobody has gone on with it for {RESTART:.0f} seconds")
            return EXITS["interrupted"]


def _left(following: "Following", path: Place, wait: bool) -> str:
    """That nobody serves the run, how long that is waited for, and what to type to go on with it."""
    from flserver.process.resume_command import resume_command
    from flserver.store.reader import Reader

    gone = "no server has the run" if following.status == "running" else "the run is interrupted"
    long = "" if wait else f" for {RESTART:.0f} seconds"
    newest = Reader(path).newest_run(following.run["name"])
    alone = newest is not None and newest["run_id"] == following.run["run_id"]
    command = resume_command(path, following.run["name" if alone else "run_id"])
    return f"{gone}: waiting{long} for its resumption, by {printable(command, 2000)} (Ctrl-C ends the waiting)"


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


def _next(ctx: click.Context, db: str | None, run: str | None, pace: _Pace, over: "Following") -> "Following":
    """What begins, or goes on, where the run that was meant is ``over``; it is waited for."""
    meant = "the next run" if run is None else f"{run!r} to be resumed, or to begin anew"
    while True:
        pace.goes_on(f"waiting for {meant}")
        if (begun := _another(ctx, db, run, over)) is not None:
            return begun
        with suppress(UsageError):
            now = reader(ctx, db).run(over.run["run_id"], exact=True)
            if now["status"] == "running" or now["ended_at"] != over.run["ended_at"]:
                return over


def _another(ctx: click.Context, db: str | None, run: str | None, before: "Following") -> "Following | None":
    """The run that is meant by now, where that is not the one ``before``; which one it is, is said."""
    from flserver.record.following import Following

    with suppress(UsageError):  # a database that cannot be read is for who reads on
        record = reader(ctx, db)
        found = record.run(run)
        if found["run_id"] != before.run["run_id"]:
            begun = Following(record, found["run_id"])
            _note(_headline(begun, database(ctx, db)))
            return begun
    return None


def _headline(following: "Following", path: Place) -> str:
    run = following.run
    called = "" if run["name"] == run["run_id"] else f" ({printable(run['name'])})"
    return f"run {printable(run['run_id'])}{called}, {_state(following, path)}"


def _state(following: "Following", path: Place) -> str:
    """How the run is, and since when."""
    from flserver.report.values import duration
    from flserver.store import database as door

    status = door.at(path).status_shown(following.status, following.run["run_id"])
    if status == "running":
        return status
    at, what = (
        (following.last_at, ", last heard of") if following.status == "running" else (following.run["ended_at"], "")
    )
    return (
        status
        if at is None
        else f"{status}{what} {duration(max(0.0, utc_timestamp(utc_now()) - utc_timestamp(at)))} ago"
    )


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


def _note(text: str) -> None:
    """To whoever types: what is followed, and what is waited for."""
    click.echo(f"flserver tail: {' '.join(text.split())}", err=True)


def _tell(told: "Told", as_json: bool) -> None:
    _say(told.text, told.at, as_json, told.level, seq=told.seq, type=told.type)


def _say(text: str, at: str, as_json: bool, level: int = logging.INFO, **more: Any) -> None:
    if as_json:
        line = {"at": at, "level": logging.getLevelName(level).lower(), "message": text} | more
        say_json(line, line=True)
    elif sys.stdout.isatty():
        shown = f"{datetime.fromisoformat(at).astimezone():%H:%M:%S %Z}  {text}"
        click.secho(shown, fg="yellow" if level >= logging.WARNING else None)
    else:
        click.echo(f"{at} {logging.getLevelName(level)} {text}")
