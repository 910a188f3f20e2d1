"""What keeps an unchanged trainer running, under systemd and without it, and what keeps the server running."""

import configparser
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from flserver.settings import SERVER_SETTINGS, defaults
from tests.patience import PATIENCE, eventually

OPS = Path(__file__).parents[1] / "ops"
LOOP = OPS / "trainers" / "keep-running"
TRAINER = OPS / "trainers" / "flserver-trainer@.service"
STUNNEL = OPS / "trainers" / "flserver-stunnel.service"
SERVER = OPS / "systemd" / "flserver.service"
CLEAN = (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGTERM)
"""What systemd's ``Restart=on-failure`` takes for a wish and no failure, says systemd.service(5)."""


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read_string(path.read_text())
    return parser


def signals_as_at_login() -> None:
    """Whoever runs the tests may ignore some (nohup, a background job), and then bash cannot take them."""
    for number in CLEAN:
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def keep_running(folder: Path, *ends: int, seconds: str = "0") -> Iterator[subprocess.Popen[str]]:
    """The loop over a program that ends in these ways, one after the other: exit statuses, and signals below 0."""
    program = folder / "program.py"
    program.write_text(
        "import os, pathlib, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "runs = pathlib.Path('runs')\n"
        "number = len(runs.read_text().splitlines()) if runs.exists() else 0\n"
        "with runs.open('a') as file:\n"
        "    print(os.getpid(), file=file)\n"
        f"end = {[*ends, None]}[number]\n"
        "signal.pause() if end is None else os.kill(os.getpid(), -end) if end < 0 else sys.exit(end)\n"
    )
    environment = os.environ | {"RESTART_SECONDS": seconds}
    command = [str(LOOP), sys.executable, "-S", "program.py"]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=signals_as_at_login,
        start_new_session=True,
    ) as loop:
        try:
            yield loop
        finally:
            with suppress(ProcessLookupError):  # what a failed test leaves would be waited for
                os.killpg(loop.pid, signal.SIGKILL)


def started(folder: Path) -> list[int]:
    """The process ids of the program so far."""
    file = folder / "runs"
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_trainer_that_fails_is_started_again_until_its_run_is_over(tmp_path: Path) -> None:
    with keep_running(tmp_path, 1, 3, -signal.SIGKILL, 1, 0) as loop:
        _, told = loop.communicate(timeout=PATIENCE)
    assert loop.returncode == 0
    assert len(started(tmp_path)) == 5
    ends = re.findall(r"ended with (\d+); again in 0 s$", told, re.M)
    assert ends == ["1", "3", "137", "1"]


@pytest.mark.parametrize("end", CLEAN)
def test_a_trainer_that_was_told_to_end_stays_down(tmp_path: Path, end: signal.Signals) -> None:
    with keep_running(tmp_path, -end) as loop:
        loop.communicate(timeout=PATIENCE)
    assert (loop.returncode, len(started(tmp_path))) == (128 + end, 1)


@pytest.mark.parametrize("end", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["it runs", "it waits"])
def test_who_ends_the_loop_ends_the_trainer_too(tmp_path: Path, end: signal.Signals, when: str) -> None:
    ends, seconds = ((), "0") if when == "it runs" else ((1,), "3600")
    with keep_running(tmp_path, *ends, seconds=seconds) as loop:
        assert loop.stderr is not None
        if when == "it waits":
            assert loop.stderr.readline().endswith("again in 3600 s\n")
        (pid,) = eventually(lambda: started(tmp_path))
        loop.send_signal(end)
        assert loop.wait(PATIENCE) == 128 + end
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_command_that_there_is_not_is_said_at_once() -> None:
    for arguments in ([], ["no-such-command"]):
        done = subprocess.run([LOOP, *arguments], capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_the_unit_and_the_loop_say_the_same() -> None:
    service = unit(TRAINER)
    assert service["Service"]["Restart"] == "on-failure", "what the tests above prove of the loop"
    assert service["Unit"]["StartLimitIntervalSec"] == "0", "no limit on starts"
    assert re.findall(r"RESTART_SECONDS:-(\w+)", LOOP.read_text()) == [service["Service"]["RestartSec"]] == ["5"]


def test_a_sites_stunnel_comes_back_whatever_ended_it_and_takes_a_new_certificate() -> None:
    service = unit(STUNNEL)
    assert service["Service"]["Restart"] == "always", "a forwarder is never done"
    assert service["Unit"]["StartLimitIntervalSec"] == "0"
    assert service["Service"]["ExecReload"] == "/bin/kill -HUP $MAINPID"
    program, file = service["Service"]["ExecStart"].split()
    assert program == "/usr/bin/stunnel"
    conf = OPS / "stunnel" / file
    assert "foreground = yes" in conf.read_text().splitlines(), "systemd's Type=exec waits for the process itself"
    assert service["Service"]["User"] == unit(TRAINER)["Service"]["User"], "who the key belongs to"


def test_whoever_stops_the_server_waits_for_longer_than_the_grace_that_it_gives() -> None:
    grace = defaults(SERVER_SETTINGS)["stop_grace"]
    compose = re.findall(r"stop_grace_period: (\d+)s", (OPS / "container" / "compose.yml").read_text())
    seconds = [unit(SERVER)["Service"]["TimeoutStopSec"].removesuffix("s"), *compose]
    assert len(seconds) == 2
    assert all(int(allowed) >= grace + 30 for allowed in seconds), "a round that ended in time is yet to be committed"


def test_the_servers_unit_bounds_what_it_takes_and_never_gives_a_run_up() -> None:
    service, starts = unit(SERVER)["Service"], unit(SERVER)["Unit"]
    assert service["MemoryMax"].endswith("%")
    assert int(service["TasksMax"]) >= defaults(SERVER_SETTINGS)["max_connections"] + 1000, "a thread each"
    assert starts["StartLimitIntervalSec"] == "0", "an interrupted run (exit code 3) is gone on with, however often"
    assert "StartLimitBurst" not in starts
    assert int(service["RestartSec"].removesuffix("s")) >= 10
    assert service["RestartForceExitStatus"] == "3"
    assert service["RestartPreventExitStatus"] == "2", "what cannot be done so is not tried again"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
@pytest.mark.parametrize("path", [TRAINER, SERVER, STUNNEL], ids=lambda path: path.name)
def test_systemd_takes_the_units(path: Path, tmp_path: Path) -> None:
    def verify(text: str) -> tuple[int, str]:
        copy.write_text(text)
        done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
        return done.returncode, done.stderr

    copy = tmp_path / path.name.replace("@", "@1")
    installed = re.sub(r"^(ExecStart=)/\S+", rf"\g<1>{sys.executable}", path.read_text(), flags=re.M)
    assert verify(installed) == (0, "")
    assert "sometimes" in verify(re.sub(r"(?m)^Restart=.*", "Restart=sometimes", installed))[1]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_the_servers_unit_exposes_little(tmp_path: Path) -> None:
    """On systemd's scale from 0 to 10: 1.2 by that of version 252, and others may rate more."""

    def accepted(text: str) -> bool:
        copy.write_text(text)
        rated = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", copy]
        done = subprocess.run(rated, capture_output=True, text=True)
        assert f"exposure level for {SERVER.name}: " in done.stdout, done.stderr
        return done.returncode == 0

    copy, text = tmp_path / SERVER.name, SERVER.read_text()
    assert accepted(text)
    open_to_all, _, _ = text.partition("NoNewPrivileges=yes")
    assert not accepted(open_to_all)
