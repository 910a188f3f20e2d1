"""The command that draws a run."""

import contextlib
import html
import json
import os
import shutil
import sqlite3
import stat
import sys
from pathlib import Path

import pytest

from flserver.store.lock import DatabaseLock
from flserver.store.reader import Reader
from tests.cli.conftest import Run, lines, refused
from tests.recorded_run import RUN

ACTS = "SELECT kind, detail, actor, reason FROM v1_operator_events WHERE kind = 'export'"


def test_it_writes_a_page_for_its_owner_and_says_of_what(flserver: Run, db: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    (line,) = lines(flserver("--db", db, "report", "night", "--out", out))
    assert line.startswith(f"{out} shows run {RUN} as of event ")
    text = out.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert RUN in text
    assert stat.S_IMODE(out.stat().st_mode) == 0o640 & ~_umask()
    assert sorted(place.name for place in tmp_path.glob("*report*")) == ["report.html"]


def test_a_file_that_is_there_goes_only_if_that_is_said(flserver: Run, db: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("mine")
    refused(flserver("--db", db, "report", "night", "--out", out), "--force writes over it")
    assert out.read_text() == "mine"
    lines(flserver("--db", db, "report", "night", "--out", out, "--force"))
    assert out.read_text().startswith("<!DOCTYPE html>")


def test_a_pipe_gets_the_page_and_nothing_else(flserver: Run, db: Path) -> None:
    code, out, err = flserver("--db", db, "report", "night", "--out", "-")
    assert (code, err) == (0, "")
    assert out.startswith("<!DOCTYPE html>")
    assert out.endswith("</html>\n")


def test_several_runs_are_compared_and_one_named_twice_is_refused(flserver: Run, db: Path) -> None:
    assert "<h1>2 runs compared</h1>" in flserver("--db", db, "report", "night", "plain", "--out", "-")[1]
    said = f"'night' and '{RUN}' are the same run, {RUN}"
    refused(flserver("--db", db, "report", "night", RUN, "--out", "-"), said)
    refused(flserver("--db", db, "compare", "night", RUN), said)


def test_what_cannot_be_is_one_line(flserver: Run, db: Path, tmp_path: Path) -> None:
    refused(flserver("--db", db, "report", "day", "--out", "-"), "has no run 'day'")
    refused(flserver("--db", db, "report", "night", "--out", tmp_path), "is a folder")
    refused(flserver("--db", db, "report", "night", "--out", tmp_path / "none" / "r.html"), "there is no folder")
    refused(flserver("--db", tmp_path / "none", "report", "night", "--out", "-"), "there is no database")


def test_personal_data_leaves_only_on_record(flserver: Run, db: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    lines(flserver("--db", db, "report", "night", "--out", out))
    assert "192.0.2.7" not in out.read_text()
    assert Reader(db).query(ACTS)[1] == []
    asked = ("--with-personal-data", "--actor", "Ada", "--reason", "the ethics board asked")
    lines(flserver("--db", db, "report", "night", "--out", out, "--force", *asked))
    assert "192.0.2.7" in out.read_text()
    ((kind, detail, actor, reason),) = Reader(db).query(ACTS)[1]
    assert (kind, actor, reason) == ("export", "Ada", "the ethics board asked")
    assert json.loads(detail) == {"what": "report", "runs": [RUN], "personal_data": True, "to": str(out)}
    (*_, verdict) = lines(flserver("--db", db, "verify"))
    assert verdict.startswith("all "), "and the record holds"


def test_what_cannot_go_on_record_does_not_leave(flserver: Run, db: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    with DatabaseLock(db):
        refused(flserver("--db", db, "report", "night", "--out", out, "--with-personal-data"), "another flserver has")
        assert not out.exists()
        lines(flserver("--db", db, "report", "night", "--out", out))


def test_an_older_record_is_upgraded_first(flserver: Run, db: Path) -> None:
    assert flserver("--db", db, "db", "downgrade", "0012")[0] == 0
    refused(flserver("--db", db, "report", "night", "--out", "-"), f"flserver --db {db} db upgrade")


def test_a_strangers_record_puts_nothing_into_the_commands_to_type(flserver: Run, db: Path) -> None:
    planted = "x'; $(rm -rf ~) \""
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        for table in ("runs", "rounds", "processes", "events"):
            connection.execute(f"UPDATE {table} SET run_id = ? WHERE run_id = ?", (planted, RUN))
    found = html.unescape(flserver("--db", db, "report", planted, "--out", "-")[1])
    assert "export-model RUN --round 3" in found
    assert [line for line in found.splitlines() if "flserver --db" in line and "rm -rf" in line] == []


def test_without_matplotlib_it_says_what_to_install(flserver: Run, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("matplotlib", "flserver.report"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused(flserver("--db", db, "report", "night", "--out", "-"), "pip install 'flserver[report]'")


def test_it_reads_what_cannot_be_written(flserver: Run, db: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(db, copy)
    before = sorted(copy.iterdir())
    assert flserver("--db", copy / "runs.sqlite", "report", "night", "--out", "-")[0] == 0
    assert sorted(copy.iterdir()) == before, "nothing is left beside it"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
