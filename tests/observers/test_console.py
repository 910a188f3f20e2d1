"""What an operator reads, in a log and on a terminal."""

import errno
import io
import json
import logging
import math
import re
import sys
import threading

import pytest
from rich.console import Console

from flserver import events as e
from flserver.observers.console import SHOWN_LINES, JsonFormatter, LiveConsole, LogConsole
from tests import facts
from tests.observers.observed_run import committed, registered
from tests.patience import eventually


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, logger="flserver.events")
    return caplog


def test_the_lines_of_a_run(run_events: list[e.Event], log: pytest.LogCaptureFixture) -> None:
    console = LogConsole()
    for event in run_events:
        console.observe(event)
    assert [(record.levelname, record.getMessage()) for record in log.records] == [
        ("INFO", "run r1 (first) started: 10 rounds"),
        ("INFO", "state: running"),
        (
            "INFO",
            "round 0/10 committed in 2.31 s: the initial model, loss 0.412, accuracy 0.887,"
            " round-000000-11.safetensors",
        ),
        ("INFO", "client 1 registered (1,400 samples)"),
        ("INFO", "client 2 registered (1,400 samples)"),
        ("INFO", "client 3 registered (1,400 samples)"),
        ("WARNING", "message from 192.0.2.7:40000 refused: it broke a limit"),
        ("WARNING", "<METADATA>\\n\\ud800 from 192.0.2.7:40000 refused: it broke a limit"),
        (
            "WARNING",
            "summed: 5 connections of strangers from 10.0.0.0/24 in the minute from 09:00 (registration, 5 messages)",
        ),
        ("WARNING", "summed: 7 connections of strangers from 10.0.0.0/24 in the minute from 09:00 (silent)"),
        ("INFO", "a round needs 2 updates (--min-updates; 2 by default, so that no client's own model is sent to all)"),
        ("INFO", "round 1/10 started with 5 clients"),
        ("WARNING", "<MODEL> to client 1 at 192.0.2.7:40000 failed"),
        ("WARNING", "client 3 left: reset"),
        ("INFO", "client 3 rejoined (1,400 samples)"),
        ("WARNING", "update of client 1 duplicate"),
        ("WARNING", "update of client 3 rejected: non_finite: fc1.weight"),
        ("WARNING", "update of client 4 rejected: something new"),
        (
            "INFO",
            "round 1/10 committed in 2.31 s: 2 updates, loss 0.412, accuracy 0.887, round-000001-11.safetensors; "
            "not in time: 5",
        ),
        ("INFO", "round 2/10 started with 2 clients"),
        ("WARNING", "update of client 5 late"),
        ("WARNING", "client 2 left: strange"),
        ("WARNING", "round 2/10, attempt 1 aborted after 8.00 s: quorum"),
        ("INFO", "client 1 left: finished"),
    ]


def test_resumed_and_ended_runs_have_lines(log: pytest.LogCaptureFixture) -> None:
    console = LogConsole()
    console.observe(facts.run_left_over("r1"))
    console.observe(facts.run_resumed(4, 9, "r1"))
    console.observe(facts.run_resumed(None, 9, "r1"))
    console.observe(committed(5, loss=None, accuracy=None))
    console.observe(e.StateChanged(state="waiting", detail="1 of 2 clients"))
    console.observe(e.OperatorActed(kind="stop", detail={"signal": "SIGTERM"}))
    console.observe(e.OperatorActed(kind="override", detail={"setting": "num_rounds", "before": 5, "now": 9}))
    console.observe(e.OperatorActed(kind="override", detail={"setting": "min_updates", "before": None, "now": 3}))
    console.observe(e.OperatorActed(kind="upgrade", detail={"before": "0001", "after": "0002", "copy": "a\nb"}))
    console.observe(e.StateChanged(state="completed"))
    console.observe(facts.run_ended("completed", "sha256:11", "r1"))
    console.observe(facts.run_ended("failed", None, "r1"))
    assert [(record.levelname, record.getMessage()) for record in log.records] == [
        ("WARNING", "run r1 had no end on record, as after a kill or a crash: interrupted"),
        ("INFO", "run r1 resumed from round 4 of 9"),
        ("INFO", "run r1 resumed from no committed round of 9"),
        ("INFO", "round 5/9 committed in 2.31 s: 0 updates, round-000005-11.safetensors"),
        ("WARNING", "state: waiting: 1 of 2 clients"),
        ("INFO", "num_rounds is now 9, was 5"),
        ("INFO", "min_updates is now 3, was not set"),
        ("INFO", "database upgraded from 0001; copy: a\\nb"),
        ("INFO", "run r1 completed, model sha256:11"),
        ("WARNING", "run r1 failed"),
    ]


def test_waiting_says_for_whom_and_how_long(log: pytest.LogCaptureFixture) -> None:
    console = LogConsole()
    console.observe(facts.run_started("r1", "first", 10))
    many = tuple(f"c{number:02}" for number in range(12))
    console.observe(facts.waited(60.02, 2, 12, many, 3540.1, round=3))
    console.observe(facts.waited(10.0, 1, 2, ("b", "\x1b[2J"), 50.0, "participants", None))
    console.observe(facts.waited(3600.4, 1, 1, (), None, "registrations", None))
    console.observe(facts.waited(10.0, 1, 1, ("2 (Lund)",), None, "registrations", None))
    assert [record.getMessage() for record in log.records[1:]] == [
        "round 3/10 waits for 60 s: 2 of 14 answered; not yet: c00, c01, c02, c03, c04, c05, c06, c07, c08, c09 and 2"
        " more; 3,540 s to the deadline",
        "no round for 10 s: 1 can be sent a model, 2 more needed; not yet: b, \\x1b[2J; 50 s to the deadline",
        "3,600 s past the join window's end: 1 there, 1 more needed; no deadline",
        "10 s past the join window's end: 1 there, 1 more needed; not yet: 2 (Lund); no deadline",
    ]
    assert {record.levelname for record in log.records} == {"INFO"}


def test_who_has_nearly_all_of_the_weight_is_said(log: pytest.LogCaptureFixture) -> None:
    console = LogConsole()
    console.observe(facts.weight_concentrated("client \x1b[2J", 1 - 2**-22))
    console.observe(facts.weight_concentrated("10.0.0.7", 0.95, ("1", "2", "3")))
    assert [(record.levelname, record.getMessage()) for record in log.records] == [
        ("WARNING", "round 1: client \\x1b[2J has 0.9999998 of the weight; --max-weight-share limits that"),
        ("WARNING", "round 1: 3 clients of 10.0.0.7 have 0.95 of the weight; --max-weight-share limits that"),
    ]


def test_peers_of_closed_connections_are_forgotten(log: pytest.LogCaptureFixture) -> None:
    console = LogConsole()
    for event in (facts.opened(1), facts.closed(1), facts.received(1, None, "refused")):
        console.observe(event)
    assert "unknown peer" in log.text


@pytest.mark.parametrize(
    "event",
    [
        registered("\x1b[2J\nroot"),
        facts.left("\x1b[2J\nroot", "reset"),
        facts.left("2", "\x1b[2J\nroot"),
        facts.update(decision="rejected", reason="names: \x1b[2J\nroot"),
        facts.update(client_id="\x1b[2J\nroot", decision="late"),
        facts.received(1, "\x1b[2J\nroot", "refused"),
        facts.received(1, None, "refused", client_id="\x1b[2J\nroot"),
        facts.received(1, None, "refused", reason="\x1b[2J\nroot"),
        e.StateChanged(state="waiting", detail="\x1b[2J\nroot"),
        facts.run_started(name="\x1b[2J\nroot"),
    ],
)
def test_text_from_outside_is_escaped(event: e.Event, log: pytest.LogCaptureFixture) -> None:
    LogConsole().observe(event)
    (record,) = log.records
    assert record.getMessage().isprintable()
    assert "\\x1b[2J\\nroot" in record.getMessage()


@pytest.mark.parametrize(
    ("loss", "accuracy", "told"),
    [
        (None, None, "1 update, round-"),
        (0.4126, 0.8871, "1 update, loss 0.413, accuracy 0.887, round-"),
        (math.nan, 0.1, "1 update, loss NaN, accuracy 0.100, round-"),
        (math.inf, math.nan, "1 update, loss Infinity, accuracy NaN, round-"),
    ],
)
def test_a_model_that_diverged_reads_otherwise_than_one_that_was_not_measured(
    log: pytest.LogCaptureFixture, loss: float | None, accuracy: float | None, told: str
) -> None:
    LogConsole().observe(committed(1, (facts.answered("1", 1, 1.0),), loss=loss, accuracy=accuracy))
    assert told in log.records[0].getMessage()


def json_line(record: logging.LogRecord) -> dict[str, object]:
    line = JsonFormatter().format(record)
    assert "\n" not in line
    parsed: dict[str, object] = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    return parsed


def test_json_lines_carry_the_event(log: pytest.LogCaptureFixture) -> None:
    outcome = facts.answered("1\n\ud800", 1, 1.0)
    LogConsole().observe(committed(1, (outcome,), loss=float("nan")))
    line = json_line(log.records[0])
    assert (line["level"], line["logger"]) == ("info", "flserver.events")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", str(line["at"]))
    assert str(line["message"]).startswith("round 1 committed")
    event = line["event"]
    assert isinstance(event, dict)
    assert (event["type"], event["round"], event["loss"]) == ("RoundCommitted", 1, "NaN")
    assert event["outcomes"][0]["client_id"] == "1\n\ud800"


def test_json_lines_without_event_and_with_exception() -> None:
    try:
        raise RuntimeError("line one\nline two")
    except RuntimeError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "went %s", ("wrong",), sys.exc_info())
    line = json_line(record)
    assert (line["message"], "event" in line) == ("went wrong", False)
    assert str(line["exception"]).endswith("RuntimeError: line one\nline two")


def screen_after(events: list[e.Event], level: int = logging.INFO, width: int = 140) -> str:
    """What a terminal of so many columns was sent, without the control sequences."""
    file = io.StringIO()
    live = LiveConsole(Console(file=file, force_terminal=True, width=width, color_system=None), level)
    live.start()
    try:
        for event in events:
            live.observe(event)
    finally:
        live.close()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())


def test_live_console_shows_the_run_and_sums_it_up(run_events: list[e.Event]) -> None:
    screen = screen_after([*run_events, e.StateChanged(state="interrupted")])
    last_picture = [line.strip() for line in screen.replace("\r", "\n").splitlines() if line.strip()][
        -SHOWN_LINES - 2 :
    ]
    assert last_picture[-3] == "state: interrupted"
    assert last_picture[0] == "update of client 4 rejected: something new"
    progress = re.sub(r"[━╸╺ ]{2,}", " | ", last_picture[-2])
    assert progress == "interrupted | round 2/10 | 1/2 updates | 1 client | loss 0.412 | accuracy 0.887"
    assert last_picture[-1] == "run interrupted, round 1/10 committed, loss 0.412, accuracy 0.887"


def test_the_progress_is_one_line_of_a_usual_terminal(run_events: list[e.Event]) -> None:
    """80 columns, where it has the most to say, and the bar is a short one."""
    *_, progress, summary = screen_after(run_events, width=80).rstrip().splitlines()
    assert summary.startswith("run running, ")
    assert re.fullmatch(
        r"running  round 2/10  [━╸╺ ]{4,} 1/2 updates  1 client  loss 0.412  accuracy 0.887", progress.strip()
    )


def test_live_console_has_no_lines_below_the_log_level_and_counts_all(run_events: list[e.Event]) -> None:
    info = "round 2/10 started with 2 clients"
    assert info in screen_after(run_events)
    screen = screen_after([*run_events, e.StateChanged(state="interrupted")], logging.WARNING)
    assert "update of client 5 late" in screen
    assert "state: interrupted" in screen
    assert info not in screen
    assert "run interrupted, round 1/10 committed, loss 0.412, accuracy 0.887" in screen


def test_live_console_of_nothing() -> None:
    screen = screen_after([])
    assert "starting" in screen
    assert "run not started, no round committed" in screen


def test_live_console_draws_from_its_own_thread_and_joins_it() -> None:
    threads = threading.active_count()
    file = io.StringIO()
    live = LiveConsole(Console(file=file, force_terminal=True, width=140, color_system=None))
    live.start()
    live.observe(e.StateChanged(state="waiting", detail="1 of 2 clients"))
    eventually(lambda: "state: waiting: 1 of 2 clients" in file.getvalue())
    live.close()
    assert threading.active_count() == threads


class GoneTerminal(io.StringIO):
    """Fails as a terminal does whose other end hung up, once ``gone`` is set."""

    gone = False

    def write(self, text: str) -> int:
        if self.gone:
            raise OSError(errno.EIO, "Input/output error")
        return super().write(text)


@pytest.mark.parametrize("before_start", [True, False])
def test_a_terminal_that_goes_away_ends_the_view_only(before_start: bool, caplog: pytest.LogCaptureFixture) -> None:
    file = GoneTerminal()
    live = LiveConsole(Console(file=file, force_terminal=True, width=140, color_system=None))
    file.gone = before_start
    live.start()
    file.gone = True
    live.observe(e.StateChanged(state="running"))
    live.close()
    assert "the terminal is gone" in caplog.text


def test_live_console_neither_writes_nor_reads_markup_while_observing() -> None:
    file = io.StringIO()
    live = LiveConsole(Console(file=file, force_terminal=True, width=140, color_system=None))
    live.observe(registered("[bold]x[/nonsense]"))
    assert file.getvalue() == ""
    live.start()
    live.close()
    assert "client [bold]x[/nonsense] registered" in file.getvalue()


def test_live_console_takes_other_log_lines() -> None:
    file = io.StringIO()
    live = LiveConsole(Console(file=file, force_terminal=True, width=140, color_system=None))
    other = logging.Logger("elsewhere")
    other.addHandler(live.handler)
    try:
        raise ValueError("no\x1b such thing")
    except ValueError:
        other.exception("observer failed\n")
    live.start()
    live.close()
    assert "observer failed\\n: ValueError('no\\x1b such thing')" in file.getvalue()
