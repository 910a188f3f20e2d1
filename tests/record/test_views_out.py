"""A run's rows in files: all of them, as they are on record, in the types that they have."""

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flserver.errors import UsageError
from flserver.record import views_out
from flserver.record.views_out import MANIFEST, ORDER, Form, write_all
from flserver.store import reading
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from tests.cli.conftest import Run as Run
from tests.cli.conftest import flserver as flserver
from tests.cli.conftest import lines, refused
from tests.store import story


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("record") / "runs.sqlite"
    ensure_head(path)
    story.write(path, story.whole_run(), run_id=story.RUN, process_id=1)
    story.write(path, story.left_over(), run_id=story.LEFT, process_id=2)
    return path


def rows(db: Path, view: str, run_id: str = story.RUN) -> tuple[list[str], list[tuple[Any, ...]]]:
    return Reader(db).query(f"SELECT * FROM {view} WHERE run_id = :run ORDER BY {ORDER[view]}", {"run": run_id})


def written(db: Path, form: Form, folder: Path) -> dict[str, Any]:
    record = Reader(db)
    return write_all(record, record.run("night"), form, folder)


def test_the_order_is_one_of_every_view(db: Path) -> None:
    assert set(ORDER) == set(views_out.views(Reader(db)))


def test_csv_holds_the_rows_of_the_run_and_no_others(db: Path, tmp_path: Path) -> None:
    manifest = written(db, "csv", tmp_path / "out")
    assert json.loads((tmp_path / "out" / MANIFEST).read_text()) == manifest
    for view, told in manifest["views"].items():
        with open(tmp_path / "out" / told["file"], newline="") as file:
            head, *found = csv.reader(file)
        columns, expected = rows(db, view)
        assert head == columns == [column["name"] for column in told["columns"]]
        assert len(found) == len(expected) == told["rows"]
        digest = hashlib.sha256((tmp_path / "out" / told["file"]).read_bytes()).hexdigest()
        assert digest == told["sha256"]
    assert manifest["views"]["v1_updates"]["rows"] == 6
    assert manifest["run"] == {"run_id": story.RUN, "name": "night", "status": "running"}
    _, ((events, head_digest),) = Reader(db).query("SELECT seq, digest FROM v1_events ORDER BY seq DESC LIMIT 1")
    assert manifest["record"] == {"events": events, "head": head_digest}


def test_json_lines_hold_each_value_as_it_is(db: Path, tmp_path: Path) -> None:
    written(db, "jsonl", tmp_path / "out")
    for view in ORDER:
        columns, expected = rows(db, view)
        found = [json.loads(line) for line in (tmp_path / "out" / f"{view}.jsonl").read_text().splitlines()]
        assert found == [dict(zip(columns, row, strict=True)) for row in expected], view


def test_parquet_has_numbers_as_numbers_and_times_as_times(db: Path, tmp_path: Path) -> None:
    manifest = written(db, "parquet", tmp_path / "out")
    for view in ORDER:
        table = pq.read_table(tmp_path / "out" / f"{view}.parquet")
        columns, expected = rows(db, view)
        assert table.column_names == columns
        for place, name in enumerate(columns):
            given, kind = [row[place] for row in expected], str(table.schema.field(name).type)
            got = table.column(name).to_pylist()
            if kind == "timestamp[us, tz=UTC]":
                got = [None if at is None else f"{at:%Y-%m-%dT%H:%M:%S.%fZ}" for at in got]
            assert got == given, (view, name)
    kinds = {c["name"]: c["type"] for c in manifest["views"]["v1_runs"]["columns"]}
    assert (kinds["rounds_committed"], kinds["started_at"], kinds["seed"]) == ("integer", "time", "integer")
    kinds = {c["name"]: c["type"] for c in manifest["views"]["v1_updates"]["columns"]}
    assert (kinds["weight"], kinds["client_id"]) == ("real", "text")


def test_the_same_record_gives_the_same_bytes(db: Path, tmp_path: Path) -> None:
    one, other = (written(db, "csv", tmp_path / name)["views"] for name in ("one", "other"))
    assert one == other


def test_rows_are_read_a_page_at_a_time(db: Path) -> None:
    endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    with Reader(db).asking() as asked:
        _, pages = asked.pages(endless)
        assert [len(next(pages)) for _ in range(3)] == [reading.PAGE] * 3


def test_pages_come_in_their_order(db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = written(db, "csv", tmp_path / "whole")["views"]
    monkeypatch.setattr(reading, "PAGE", 2)
    assert written(db, "csv", tmp_path / "paged")["views"] == whole


def test_nothing_is_written_over_and_nothing_is_left_of_what_failed(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(UsageError, match="no empty folder"):
        written(db, "csv", tmp_path / "full")
    monkeypatch.setitem(ORDER, "v1_updates", "no_such_column")
    with pytest.raises(UsageError, match="no_such_column"):
        written(db, "csv", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_the_command_writes_a_folder_or_one_view_to_standard_output(flserver: Run, db: Path, tmp_path: Path) -> None:
    said = lines(flserver("--db", db, "export", "night", "--out", tmp_path / "out"))
    assert said[0].endswith(f"15 views of run {story.RUN}")
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".csv"] * 15 + [".json"]
    command = [
        sys.executable,
        "-m",
        "flserver",
        "--db",
        str(db),
        "export",
        "night",
        "--view",
        "v1_rounds",
        "--out",
        "-",
    ]
    done = subprocess.run([*command, "--format", "jsonl"], capture_output=True, text=True, check=True)
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["committed", "aborted", "committed"]
    told = json.loads(flserver("--db", db, "export", "night", "--out", tmp_path / "more", "--json")[1])
    assert told["views"]["v1_rounds"]["rows"] == 3


def test_what_cannot_be_exported(flserver: Run, db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = ("--out", tmp_path / "out")
    refused(flserver("--db", db, "export", "day", *out), "has no run 'day'")
    refused(flserver("--db", db, "export", "night", "--out", "-"), "--view NAME goes with --out -")
    refused(flserver("--db", db, "export", "night", "--view", "v1_rounds", *out), "--view NAME goes with --out -")
    refused(flserver("--db", db, "export", "--view", "v1_round", "--out", "-"), "did you mean 'v1_rounds'")
    tool = ("--to", "tensorboard", "--out", "logs")
    refused(flserver("--db", db, "export", "night", *tool, "--view", "v1_rounds"), "--view does not go with --to")
    refused(flserver("--db", db, "export", "night", *tool, "--raw"), "--raw does not go with --to")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(flserver("--db", db, "export", "night", "--format", "parquet", *out), "pip install 'flserver[parquet]'")
    assert not (tmp_path / "out").exists()
