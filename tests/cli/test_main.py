"""What goes for every command: which database, which settings, and the program itself."""

import contextlib
import os
import re
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from flserver.settings import SERVER_SETTINGS
from tests.cli.conftest import COUNT, ROOT, Run, lines, refused


def test_the_database_before_or_after_the_command_or_from_the_environment(
    flserver: Run, db: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = ["n", "2"]
    assert lines(flserver("--db", db, *COUNT)) == expected
    assert lines(flserver(*COUNT, "--db", db)) == expected
    assert lines(flserver("--db", tmp_path / "other.sqlite", *COUNT, "--db", db)) == expected, "the nearer one"
    monkeypatch.setenv("FLSERVER_DB", str(db))
    assert lines(flserver(*COUNT)) == expected
    refused(flserver("--db", tmp_path / "other.sqlite", *COUNT), "other.sqlite")
    monkeypatch.delenv("FLSERVER_DB")
    monkeypatch.chdir(db.parent)
    assert lines(flserver(*COUNT)) == expected, "runs.sqlite here is the default"
    (tmp_path / "c.toml").write_text(f"db = '{tmp_path}/from-file.sqlite'")
    refused(flserver("--config", tmp_path / "c.toml", *COUNT), "from-file.sqlite")


@pytest.mark.parametrize("command", [("runs",), ("show", "night"), COUNT, ("verify",), ("db", "check")])
def test_reading_makes_no_database(flserver: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    refused(flserver("--db", tmp_path / "none.sqlite", *command), "there is no database")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [("runs",), COUNT, ("verify",), ("db", "check"), ("db", "upgrade")])
def test_a_file_of_somebody_elses_is_left_alone(flserver: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    notes, other = tmp_path / "notes.txt", tmp_path / "other.sqlite"
    notes.write_text("not a database, and longer than the header of one\n" * 40)
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE t (x)")
    before = notes.read_bytes(), other.read_bytes()
    for path in (notes, other, tmp_path):
        refused(flserver("--db", path, *command), str(path))
    assert (notes.read_bytes(), other.read_bytes()) == before


def test_flag_before_environment_before_file_before_default(
    flserver: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "c.toml"
    config.write_text("num-rounds = 3\nserver-port = 4\nmin-clients = 5\nuse-cuda = false\n")
    monkeypatch.setenv("FLSERVER_NUM_ROUNDS", "6")
    monkeypatch.setenv("FLSERVER_SERVER_PORT", "7")
    monkeypatch.setenv("FLSERVER_HOST", "")
    code, printed, _ = flserver("--config", config, "--num-rounds", "8", "--print-config")
    values = tomllib.loads(printed)
    assert code == 0
    assert [values[name] for name in ("num-rounds", "server-port", "min-clients", "use-cuda", "host", "seed")] == [
        8,
        7,
        5,
        False,
        "127.0.0.1",
        0,
    ]


def test_what_is_printed_gives_the_same_server(flserver: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--num-rounds", "9", "--use-cuda=False", "--no-rejoin", "--run-name", 'Ward "7"', "--min-updates", "3")
    _, printed, _ = flserver(*arguments, "--print-config")
    (tmp_path / "c.toml").write_text(printed, encoding="utf-8")
    assert flserver("--config", tmp_path / "c.toml", "--print-config")[1] == printed
    monkeypatch.setenv("FLSERVER_CONFIG", str(tmp_path / "c.toml"))
    assert flserver("--print-config")[1] == printed
    named = re.findall(r"^(?:# )?([a-z-]+) ", printed, re.MULTILINE)
    assert named == [setting.name for setting in SERVER_SETTINGS], "every setting has its line"


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_variable_that_is_no_setting_is_said(
    flserver: Run, db: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    for name in ("FLSERVER_CONFIG", "FLSERVER_SEED", "FLSERVER_QUERY_FORM", "FLSERVER_DB_CHECK_DB"):
        monkeypatch.setenv(name, "")
    assert lines(flserver("--db", db, *COUNT)) == ["n", "2"], "these are settings, of commands too"
    monkeypatch.setenv("FLSERVER_NUM_ROUND", "3")
    monkeypatch.setenv("FLSERVER_XYZZY", "3")
    code, out, err = flserver(*(("--db", db, *COUNT) if where == "before" else (*COUNT, "--db", db)))
    assert (code, out) == (0, "n\n2\n")
    assert err.splitlines() == [
        "flserver: FLSERVER_NUM_ROUND is no setting, and is ignored; did you mean 'FLSERVER_NUM_ROUNDS'?",
        "flserver: FLSERVER_XYZZY is no setting, and is ignored",
    ]


def test_the_module_is_the_program(db: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLSERVER_")}
    command = [sys.executable, "-m", "flserver", "--db", str(db), "query", "-", "--format", "csv"]
    asked = "SELECT name FROM v1_runs ORDER BY name"
    done = subprocess.run(command, cwd=ROOT, env=environment, input=asked, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "name\nnight\nplain\n", "")
    command[-3] = "DELETE FROM events"
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_the_version_is_said(flserver: Run) -> None:
    from importlib.metadata import version

    assert lines(flserver("--version")) == [f"flserver, version {version('flserver')}"]


def test_a_signal_that_comes_while_python_ends_changes_no_exit_code() -> None:
    ends = "import atexit, os, signal; atexit.register(os.kill, os.getpid(), signal.SIGTERM)"
    code = f"{ends}; import flserver.__main__ as program; program.main()"
    done = subprocess.run([sys.executable, "-c", code, "--version"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
