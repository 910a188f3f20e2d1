"""What the commands print at a real terminal fits it, and what they print into a pipe is whole."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest
from rich.cells import cell_len

from tests.cli.conftest import ROOT, Run
from tests.patience import PATIENCE

NAMES = "SELECT 'ward 日本語の病院 בית חולים ' || char(27) || '[2J' || client_id AS who, 1234 AS n FROM v1_clients"
COMMANDS = (("runs",), ("show", "night"), ("query", "SELECT * FROM v1_rounds"), ("query", NAMES), ("ask",))
RUN_THEM = """
import sys
from flserver.cli.main import run_cli
for command in {commands}:
    assert run_cli(["--db", sys.argv[1], *command]) == 0, command
    print("END", flush=True)
"""


def at_terminal(width: int, db: Path, **more: str) -> list[list[str]]:
    """The lines that each command prints at a terminal of that width."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLSERVER_") and k != "COLUMNS"}
    environment |= {"PYTHONPATH": str(ROOT), "TZ": "Europe/Stockholm"} | more
    code = RUN_THEM.format(commands=COMMANDS)
    ends = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    process = subprocess.Popen([sys.executable, "-c", code, str(db)], env=environment, **ends)
    os.close(terminal)
    parts: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(controller, 1 << 16):
                parts.append(data)
        except OSError:  # the last one has closed the terminal
            pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert process.wait(PATIENCE) == 0, b"".join(parts).decode()
    finally:
        process.kill()
        process.wait()
        reader.join()
        os.close(controller)
    return [said.splitlines() for said in b"".join(parts).decode().replace("\r\n", "\n").split("END\n")[:-1]]


@pytest.mark.parametrize("width", [80, 40])
def test_a_terminal_is_not_overrun(db: Path, width: int) -> None:
    runs, show, query, names, ask = at_terminal(width, db)
    tables = [runs, show[1:], query, names, ask]
    for lines in tables:
        assert max(map(cell_len, lines)) <= width
        assert all(char.isprintable() or char == "\u200e" for line in lines for char in line)
    heads = "".join(word for line in query for word in line.split())
    for column in ("base_", "digest", "checkpoint_", "aggregate_", "arithmetic"):
        assert column in heads, column
    assert "(CET)" in " ".join(runs)
    assert all(line.endswith("1234") for line in names[2:])
    questions = " ".join(" ".join(ask).split())
    for asked in ("who_took_part Who took part in a round, and with what weight? [round]", "whose_update "):
        assert asked in questions


def test_a_pipe_has_everything_and_the_records_own_times(flserver: Run, db: Path) -> None:
    _, rows, _ = flserver("--db", db, "query", "SELECT model_digest, started_at FROM v1_rounds")
    digest, at = rows.splitlines()[2].split()
    assert (len(digest), at[-1]) == (len("sha256:") + 64, "Z")
