"""The command that goes on with a run, as a shell reads it."""

import shlex
import sys
from pathlib import Path

import pytest

from flserver.process.resume_command import go_back_command, resume_command


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation's own Python, in a folder that is not on the ``PATH``."""
    executable = tmp_path / "my venv" / "bin" / "python"
    executable.parent.mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(executable))
    monkeypatch.setenv("PATH", "/no/such/folder")
    monkeypatch.chdir(tmp_path)
    return executable


def test_where_there_is_no_script_it_is_pythons_module(python: Path, tmp_path: Path) -> None:
    words = shlex.split(resume_command(Path("it's.sqlite"), "Anne's $run"))
    assert words == [
        *(str(python), "-m", "flserver"),
        *("--db", str(tmp_path / "it's.sqlite"), "--resume", "--run-name", "Anne's $run"),
    ]


def test_the_script_goes_by_its_name_where_that_finds_it(python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = python.with_name("flserver")
    script.touch(0o755)
    assert shlex.split(resume_command(Path("/r.sqlite"), "r"))[0] == str(script)
    monkeypatch.setenv("PATH", str(python.parent))
    assert resume_command(Path("/r.sqlite"), "r") == "flserver --db /r.sqlite --resume --run-name r"


def test_the_command_that_goes_back_in_a_run_names_the_round(python: Path) -> None:
    words = shlex.split(go_back_command(Path("/it's.sqlite"), "night", 17))
    assert words == [
        str(python),
        "-m",
        "flserver",
        "--db",
        "/it's.sqlite",
        "--run-name",
        "night",
        "--resume-from",
        "17",
    ]


def test_another_installations_script_is_not_meant(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python.with_name("flserver").touch(0o755)
    other = tmp_path / "other" / "flserver"
    other.parent.mkdir()
    other.touch(0o755)
    monkeypatch.setenv("PATH", str(other.parent))
    assert shlex.split(resume_command(Path("/r.sqlite"), "r"))[0] == str(python.with_name("flserver"))
