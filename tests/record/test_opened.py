"""The record from Python."""

import os
import runpy
import shutil
import sqlite3
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pandas
import pytest

from flserver import record
from flserver.errors import CheckpointError, UsageError
from flserver.store.lock import DatabaseLock
from flserver.store.schema import ensure_head
from tests import facts
from tests.kept_run import RUN as KEPT
from tests.kept_run import write_kept
from tests.recorded_run import PLAIN, RUN, SCREEN_CLEARER, weights
from tests.store import story

ROOT = Path(__file__).parents[2]


def test_runs_are_found_by_name_by_id_and_as_the_newest(recorded: Path) -> None:
    with record.open(recorded) as r:
        assert r.runs().column("name") == ["plain", "night"]
        assert [r.run(ref).run_id for ref in ("newest", "night", RUN)] == [PLAIN, RUN, RUN]
        assert r.run().run_id == PLAIN
        with pytest.raises(UsageError, match="has no run 'day'"):
            r.run("day")
    assert (r.run("night").status, r.run("night").settings) == ("completed", {"num_rounds": 2, "round_timeout": 3600.0})


def test_a_run_gives_its_rows_and_not_anothers(recorded: Path) -> None:
    night = record.open(str(recorded)).run("night")
    rounds = night.rounds()
    assert [(row["round"], row["accuracy"]) for row in rounds] == [(0, 0.1), (1, 0.8), (2, 0.95), (3, 0.9)]
    assert {row["run_id"] for row in rounds} == {RUN}
    assert night.clients().column("client_id") == sorted(["1", SCREEN_CLEARER])
    asked = night.query("SELECT round FROM v1_rounds WHERE run_id = :run_id AND accuracy > :least", least=0.85)
    assert asked.column("round") == [2, 3]
    with pytest.raises(KeyError):
        asked.column("accuracy")


def test_a_rounds_model_is_its_tensors_and_what_is_not_there_is_said(recorded: Path, tmp_path: Path) -> None:
    night = record.open(recorded).run("night")
    best = night.round("best")
    assert (best.number, night.round().number, night.round(0).number) == (2, 3, 0)
    for round, model in ((2, best.model()), (3, night.model()), (0, night.model(0))):
        assert {name: tensor.tolist() for name, tensor in model.items()} == {
            name: tensor.tolist() for name, tensor in weights(round).items()
        }, "the strategy's own tensors are no part of it"
    with pytest.raises(UsageError, match="round 1 was pruned at"):
        night.model(1)
    with pytest.raises(UsageError, match="no committed round 7"):
        night.round(7)
    with pytest.raises(UsageError, match="a number, best or last"):
        night.round("newest")
    moved = shutil.copytree(recorded.with_name("runs.sqlite.checkpoints"), tmp_path / "moved")
    (file,) = (moved / RUN).glob("round-000003-*")
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match="does not match its digest"):
        record.open(recorded, checkpoint_dir=moved).run("night").model()


def test_a_run_whose_server_was_killed_has_a_state_beside_its_status(tmp_path: Path) -> None:
    db = tmp_path / "runs.sqlite"
    ensure_head(db)
    story.write(db, [*story.sound_run(), facts.run_ended("completed")])
    story.write(db, story.left_over(), run_id=story.LEFT, process_id=2)
    for shown in ("running", "running (no server has it)"):
        with DatabaseLock(db) if shown == "running" else nullcontext():
            r = record.open(db)
            killed = r.run("killed")
            assert (killed.status, killed.state, f", {shown}>" in repr(killed)) == ("running", shown, True)
            assert r.runs().column("status") == ["running", "completed"], "the view's"
            assert r.runs().column("state") == [shown, "completed"]
            assert r.runs().columns[:-1] == r.query("SELECT * FROM v1_runs").columns


def test_a_rounds_updates_are_its_own(tmp_path: Path) -> None:
    db = tmp_path / "runs.sqlite"
    write_kept(db)
    run = record.open(db).run(KEPT)
    assert {row["run_id"] for row in run.updates()} == {run.run_id}
    first = run.round(1).updates()
    assert first.column("client_id") == sorted(first.column("client_id"))
    assert {row["answers_round"] for row in first} == {1}
    assert len(first) < len(run.updates())


def test_nothing_can_be_written_and_a_database_has_to_be_there(recorded: Path, tmp_path: Path) -> None:
    before = recorded.read_bytes()
    r = record.open(recorded)
    for sql in ("DELETE FROM runs", f"ATTACH '{tmp_path / 'more.sqlite'}' AS more", "CREATE TABLE mine (n)"):
        with pytest.raises(UsageError, match="a query is one statement that only reads"):
            r.query(sql)
    with pytest.raises(UsageError, match="no such column: absent"):
        r.query("SELECT absent FROM v1_runs")
    with pytest.raises(UsageError, match="there is no database"):
        record.open(tmp_path / "gone.sqlite")
    assert recorded.read_bytes() == before
    assert os.listdir(tmp_path) == []


def test_it_reads_while_somebody_writes_and_holds_nobody_up(recorded: Path, tmp_path: Path) -> None:
    db = Path(shutil.copyfile(recorded, tmp_path / "runs.sqlite"))
    writer = sqlite3.connect(db, isolation_level=None)
    writer.execute("PRAGMA journal_mode = WAL")
    with record.open(db) as r:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE runs SET name = 'day' WHERE name = 'night'")
        assert r.runs().column("name") == ["plain", "night"], "what is committed"
        writer.execute("COMMIT")
        assert r.runs().column("name") == ["plain", "day"]
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    writer.close()


def test_rows_become_a_frame_with_times(recorded: Path) -> None:
    frame = record.open(recorded).run("night").rounds().frame()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["round"]) == [0, 1, 2, 3]
    assert str(frame["ended_at"].dt.tz) == "UTC"
    assert frame["deadline_at"].isna()[0], "round 0 has none"
    empty = record.open(recorded).run("plain").updates().frame()
    assert (len(empty), "update_cosine" in empty) == (0, True)


def test_without_pandas_a_line_says_what_to_install(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match=r"pip install 'flserver\[notebook\]'"):
        record.open(recorded).runs().frame()


def test_in_a_notebook_what_a_peer_wrote_is_text(recorded: Path) -> None:
    r = record.open(recorded)
    clients = r.run("night").clients()
    assert (repr(clients)[:9], "\x1b" in clients._repr_html_()) == ("<2 rows: ", False)
    hostile = r.query("SELECT '<script>alert(1)</script>' AS \"<b>name\", NULL AS absent")
    assert "<script" not in hostile._repr_html_()
    assert "<th>&lt;b&gt;name</th>" in hostile._repr_html_()
    many = r.query("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) SELECT i FROM n")
    assert "<p>… 40 more rows</p>" in many._repr_html_()
    assert r.run("night")._repr_html_().startswith("<code>&lt;Run night")
    assert "accuracy 0.95" in repr(r.run("night").round("best"))
    assert "&lt;Round 2" in r.run("night").round("best")._repr_html_()


def test_the_example_runs_cell_by_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_kept(tmp_path / "runs.sqlite")
    example = ROOT / "ops" / "examples" / "notebook.py"
    monkeypatch.setattr(sys, "argv", [str(example), str(tmp_path / "runs.sqlite")])
    found = runpy.run_path(str(example))
    monkeypatch.setattr(sys, "argv", [str(example), str(tmp_path / "runs.sqlite"), found["run"].run_id[:-1]])
    assert runpy.run_path(str(example))["run"].run_id == found["run"].run_id
    assert len(found["accepted"]) > 0
    assert "..." not in capsys.readouterr().out.partition("broadcast_seconds")[0], "no column is cut"
    runpy.run_path(str(example))
    assert found["last"].digest in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [([], "of which database\\? .* quickstart-run/runs.sqlite"), (["none.sqlite"], "there is no database none.sqlite")],
)
def test_the_example_says_in_a_line_what_it_lacks(
    given: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    example = ROOT / "ops" / "examples" / "notebook.py"
    monkeypatch.setattr(sys, "argv", [str(example), *given])
    with pytest.raises(SystemExit, match=said):
        runpy.run_path(str(example))


def test_torch_is_imported_for_a_model_only() -> None:
    check = "import sys; from flserver import record; print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False False\n", "")
