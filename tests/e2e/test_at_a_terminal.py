"""What is different where a person sits: started on a terminal of its own."""

import contextlib
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import sql
from tests.patience import PATIENCE, eventually
from tests.recorded_run import write_database


class AtTerminal:
    """``flserver`` with a terminal for its input and output; ``shown`` is what it has written there."""

    def __init__(self, folder: Path, *arguments: str, **more: str) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FLSERVER_")}
        environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "400"} | more
        command = [sys.executable, "-m", "flserver", "--metrics-port", "0", *arguments]
        self._controller, terminal = pty.openpty()
        self._parts: list[bytes] = []
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=terminal, stdout=terminal, stderr=terminal
        )
        os.close(terminal)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the last one has closed the terminal
            while data := os.read(self._controller, 1 << 16):
                self._parts.append(data)

    @property
    def shown(self) -> str:
        return b"".join(self._parts).decode()

    def exit_code(self) -> int:
        """Wait for its end, and for all that it has shown."""
        code = self.process.wait(PATIENCE)
        self._reader.join()
        return code

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.exit_code()
        os.close(self._controller)


@contextlib.contextmanager
def at_terminal(folder: Path, *arguments: str, **more: str) -> Iterator[AtTerminal]:
    program = AtTerminal(folder, *arguments, **more)
    try:
        yield program
    finally:
        program.end()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the record of two runs, ``night`` and ``plain``."""
    write_database(tmp_path / "runs.sqlite")
    return tmp_path


@pytest.fixture
def taken() -> Iterator[str]:
    """A port that cannot be had: what comes so far knows which run it is."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield str(listener.getsockname()[1])


def test_a_name_that_no_run_has_is_refused_where_it_is_typed(place: Path, taken: str) -> None:
    with at_terminal(place, "--resume", "--run-name", "evening", "--server-port", taken) as program:
        assert program.exit_code() == 2
    assert "runs.sqlite has no run of that name to go on with; the newest are plain, night" in program.shown


def test_a_name_from_the_environment_is_not_typed(place: Path, taken: str) -> None:
    with at_terminal(place, "--resume", "--server-port", taken, FLSERVER_RUN_NAME="evening") as program:
        assert program.exit_code() == 2
    assert "Address already in use" in program.shown


@pytest.mark.parametrize(
    ("name", "said"),
    [("evening", "Address already in use"), ("night2", "did you mean 'night'?"), ("nihgt", "did you mean 'night'?")],
)
def test_in_a_unit_only_a_slip_is_refused(place: Path, taken: str, name: str, said: str) -> None:
    command = [sys.executable, "-m", "flserver", "--resume", "--run-name", name, "--server-port", taken]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLSERVER_")}
    done = subprocess.run(command, cwd=place, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stderr


def test_the_log_level_holds(tmp_path: Path) -> None:
    with at_terminal(tmp_path, "--server-port", "0", "--log-level", "warning") as program:
        count = "SELECT COUNT(*) FROM v1_rounds WHERE status = 'committed'"
        eventually((tmp_path / "runs.sqlite.checkpoints").exists)
        eventually(lambda: sql(tmp_path / "runs.sqlite", count) == [(1,)])
        program.process.send_signal(signal.SIGINT)
        assert program.exit_code() == 3
    assert "listening for trainers" not in program.shown
    assert "committed in" not in program.shown
    assert "round 0/30 committed" in program.shown.splitlines()[-1], "the summary is no line of the log"
