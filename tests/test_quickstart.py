"""The quickstart takes nothing away without asking, and shows what takes minutes."""

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE

ROOT = Path(__file__).parents[1]
# Stands for the programs: what is of interest here is where they would be told to write.
PROGRAM = """#!/bin/sh
echo "$(basename "$0") $*" >> calls
"""
PYTHON = """#!/bin/sh
case "$*" in
  "-m pip "*) echo "$*" >> calls; echo "Requirement already satisfied: this"; echo "Downloading torch (900 MB)" ;;
  *) exec {python} "$@" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The repository as the quickstart sees it, with an environment in which nothing is installed."""
    shutil.copytree(ROOT / "ops", tmp_path / "ops")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("flserver", "flclient", "python"):
        (programs / name).write_text(PYTHON.format(python=sys.executable) if name == "python" else PROGRAM)
        (programs / name).chmod(0o755)
    return tmp_path


def record(checkout: Path) -> Path:
    """What an earlier run left."""
    earlier = checkout / "quickstart-run" / "runs.sqlite"
    earlier.parent.mkdir()
    earlier.write_text("precious")
    return earlier


@pytest.mark.parametrize(("option", "code"), [("--help", 0), ("-h", 0), ("--rounds", 2)])
def test_with_an_option_it_says_what_it_does_and_does_nothing(checkout: Path, option: str, code: int) -> None:
    command = [checkout / "ops" / "quickstart", option]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == code
    assert done.stdout.startswith("From nothing to a finished run: ")
    assert not (checkout / "quickstart-run").exists()
    assert not (checkout / "calls").exists()


def quickstart(checkout: Path, answer: str | None = None) -> str:
    """What it shows; with an ``answer`` its input is a terminal, on which that is typed."""
    controller, terminal = pty.openpty()
    try:
        if answer is not None:
            os.write(controller, f"{answer}\n".encode())
        done = subprocess.run(
            [checkout / "ops" / "quickstart"],
            stdin=terminal if answer is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
    finally:
        os.close(controller)
        os.close(terminal)
    assert done.returncode == 0, done.stdout
    return done.stdout


def databases(checkout: Path) -> set[str]:
    """Where servers were told to write."""
    calls = (checkout / "calls").read_text().splitlines()
    return {call.split()[2] for call in calls if call.startswith("flserver --db")}


def test_the_first_run_has_its_folder_and_pip_shows_what_it_does(checkout: Path) -> None:
    shown = quickstart(checkout)
    assert databases(checkout) == {"quickstart-run/runs.sqlite"}
    assert "Downloading torch (900 MB)" in shown
    assert "already satisfied" not in shown
    assert "--quiet" not in (checkout / "calls").read_text()
    assert "--resume --run-name quickstart --num-rounds 15" in shown
    assert "Downloading" not in quickstart(checkout), "once"


def test_where_nobody_can_be_asked_an_earlier_record_stays(checkout: Path) -> None:
    earlier = record(checkout)
    shown = quickstart(checkout)
    assert earlier.read_text() == "precious"
    assert databases(checkout) == {"quickstart-run-2/runs.sqlite"}
    assert "quickstart-run/ stays as it is; this run goes to quickstart-run-2/" in shown
    quickstart(checkout)
    assert databases(checkout) == {"quickstart-run-2/runs.sqlite", "quickstart-run-3/runs.sqlite"}


@pytest.mark.parametrize("answer", ["n", "", "what?"])
def test_without_a_yes_nothing_is_started_and_it_says_what_to_type(checkout: Path, answer: str) -> None:
    earlier = record(checkout)
    shown = quickstart(checkout, answer)
    assert earlier.read_text() == "precious"
    assert [path.name for path in checkout.glob("quickstart-run*")] == ["quickstart-run"]
    assert not (checkout / "calls").exists(), "nothing is installed, and nothing started"
    assert "quickstart-run/ stays as it is, and nothing was started" in shown
    assert "mv quickstart-run quickstart-run-1 && ops/quickstart" in shown


@pytest.mark.parametrize("answer", ["y", "Yes"])
def test_with_a_yes_it_makes_room(checkout: Path, answer: str) -> None:
    earlier = record(checkout)
    shown = quickstart(checkout, answer)
    assert "quickstart-run/ has the record of an earlier run. Delete it? [y/N]" in shown
    assert not earlier.exists()
    assert databases(checkout) == {"quickstart-run/runs.sqlite"}
