"""A record that a stranger made: it leads to no file beyond its checkpoints, and reading it imports nothing."""

import contextlib
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flserver.errors import CheckpointError
from flserver.models.checkpoint import CheckpointStore
from tests.cli.conftest import Run, refused
from tests.recorded_run import PLAIN, RUN

ANY_PORT = ("--server-port", "0", "--metrics-port", "0")


def change(db: Path, statement: str, *values: object) -> None:
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        connection.execute(statement, values)


def file_of(db: Path, run_id: str) -> Path:
    """The newest checkpoint."""
    return sorted(db.with_name("runs.sqlite.checkpoints").glob(f"{run_id}/*"))[-1]


def _up(db: Path, outside: Path) -> str:
    return os.path.relpath(outside, db.with_name("runs.sqlite.checkpoints"))


def _absolute(db: Path, outside: Path) -> str:
    return str(outside)


def _link(db: Path, outside: Path) -> str:
    inside = file_of(db, PLAIN).with_name(outside.name)
    inside.unlink()
    inside.symlink_to(outside)
    return f"{PLAIN}/{outside.name}"


def _linked_folder(db: Path, outside: Path) -> str:
    db.with_name("runs.sqlite.checkpoints").joinpath("linked").symlink_to(outside.parent)
    return f"linked/{outside.name}"


def _other_name(db: Path, outside: Path) -> str:
    shutil.copy(outside, file_of(db, PLAIN).with_name("weights.safetensors"))
    return f"{PLAIN}/weights.safetensors"


def _no_path(db: Path, outside: Path) -> str:
    return f"{PLAIN}/\0/{outside.name}"


Lead = Callable[[Path, Path], str]


@pytest.fixture(
    params=[_up, _absolute, _link, _linked_folder, _other_name, _no_path], ids=lambda lead: lead.__name__[1:]
)
def misled(db: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A database whose run ``plain`` names a checkpoint that is whole, and not below the checkpoints' folder."""
    outside = tmp_path / "elsewhere" / file_of(db, PLAIN).name
    outside.parent.mkdir()
    shutil.copy(file_of(db, PLAIN), outside)
    lead: Lead = request.param
    change(db, "UPDATE rounds SET checkpoint = ? WHERE run_id = ?", lead(db, outside), PLAIN)
    return db


def test_what_lies_elsewhere_is_not_read(
    flserver: Run, misled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reason = "which is no checkpoint below"
    refused(flserver("--db", misled, "export-model", "plain", "--out", "m.safetensors"), reason, code=1)
    assert not Path("m.safetensors").exists()
    code, _, err = flserver("--db", misled, "verify")
    assert (code, err.count("rounds run_id") + err.count(reason), err.count("does not hold")) == (1, 1, 1)
    for options in (("--initial-weights", "plain"), ("--resume", "--run-name", "plain")):
        code, _, err = flserver("--db", misled, "check", *ANY_PORT, *options)
        assert code == 2
        assert reason in err


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_not_read(flserver: Run, db: Path, tmp_path: Path, kind: str) -> None:
    """A pipe would be read for ever."""
    file = file_of(db, PLAIN)
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        try:
            os.mknod(file, 0o020600, os.makedev(1, 5))  # zeros without end
        except PermissionError:
            pytest.skip("only root can make a device")
    refused(flserver("--db", db, "export-model", "plain", "--out", tmp_path / "m.pt"), "is not a regular file", code=1)
    code, _, err = flserver("--db", db, "verify")
    assert (code, err.count("is not a regular file")) == (1, 1)


def test_a_file_elsewhere_or_of_another_run_is_not_deleted(db: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of what is pruned on record, a server that resumes deletes what is left."""
    files = CheckpointStore(db.with_name("runs.sqlite.checkpoints"), RUN)
    precious = db.with_name("round-000001-0123456789abcdef.safetensors")
    precious.touch()
    others = file_of(db, PLAIN)
    for path in (f"../{precious.name}", str(precious), f"{RUN}/../../{precious.name}", f"{PLAIN}/{others.name}"):
        files.delete(path)
    assert precious.exists()
    assert others.exists()
    assert len([line for line in caplog.messages if "could not be deleted" in line]) == 4


@pytest.mark.parametrize("run_id", ["../elsewhere", "/tmp", "..", "a/b", "linked"])
def test_a_runs_folder_is_below_the_checkpoints(tmp_path: Path, run_id: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="is not in"):
        CheckpointStore(checkpoints, run_id)


EVIL = """
from pathlib import Path
(Path(__file__).parent / "ran").touch()
"""


@pytest.mark.parametrize("named", ["model", "strategy", "evaluate"])
def test_reading_imports_nothing_that_a_record_names(
    flserver: Run, db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    (db.parent / "evil.py").write_text(EVIL)
    monkeypatch.chdir(db.parent)
    monkeypatch.syspath_prepend(db.parent)
    if named != "evaluate":
        change(db, f"UPDATE runs SET {named} = 'evil:factory'")
    change(db, f"UPDATE runs SET config = json_set(config, '$.{named}', 'evil:factory')")
    for command in (
        ("runs",),
        ("show", "night"),
        ("query", "SELECT * FROM v1_runs"),
        ("export-model", "night", "--out", tmp_path / "m.pt"),
        ("export-model", "plain", "--out", tmp_path / "plain.safetensors"),
        ("verify",),
        ("db", "check"),
    ):
        assert flserver("--db", db, *command)[0] == (command == ("verify",)), command
    assert "evil" not in sys.modules
    assert not (db.parent / "ran").exists()
