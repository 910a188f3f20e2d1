"""Whether a record holds, and the database's schema."""

import contextlib
import hashlib
import json
import os
import re
import sqlite3
import sys
from pathlib import Path

import pytest

from flserver.store.lock import DatabaseLock
from tests.cli.conftest import COUNT, Run, lines, refused, spoil
from tests.old_database import old_database
from tests.recorded_run import PLAIN, RUN


def test_a_sound_record_is_verified(flserver: Run, db: Path) -> None:
    schema, chain, tables, sums, tree, *files, summary = lines(flserver("--db", db, "verify"))
    assert summary == "all 9 checks hold"
    assert schema.startswith("the schema is that of ")
    assert "nodes of the tree over" in tree
    assert re.fullmatch(r"\d+ rows in \d+ tables are what the events say", tables)
    assert sums == "each committed round's samples are those of its accepted updates"
    assert re.fullmatch(r"\d+ events, an unbroken chain to sha256:[0-9a-f]{64}", chain)
    checked = [re.fullmatch(r"run (\w+) round (\d): sha256:[0-9a-f]{64}", line) for line in files]
    assert [match and match.groups() for match in checked] == [
        ("night", "0"),
        ("night", "2"),
        ("night", "3"),
        ("plain", "0"),
    ], "every checkpoint that was not pruned"


def test_at_a_terminal_what_holds_of_many_is_counted(flserver: Run, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = lines(flserver("--db", db, "verify"))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    *before, counted, summary = lines(flserver("--db", db, "verify"))
    assert (before, counted, summary) == (whole[:5], "checkpoints with the digest on record: 4", whole[-1])
    assert lines(flserver("--db", db, "verify", "--verbose")) == whole
    spoil(db, RUN, 2)
    code, out, err = flserver("--db", db, "verify")
    assert (code, out.splitlines()[-1]) == (1, "checkpoints with the digest on record: 3")
    assert "run night round 2" in err.splitlines()[0]


def test_a_changed_and_a_missing_checkpoint_are_found(flserver: Run, db: Path) -> None:
    spoil(db, RUN, 2)
    (gone,) = db.with_name("runs.sqlite.checkpoints").glob(f"{PLAIN}/*")
    gone.unlink()
    code, out, err = flserver("--db", db, "verify")
    assert code == 1
    assert len(out.splitlines()) == 7
    changed, missing, summary = err.splitlines()
    assert summary == "1 of 9 checks does not hold, 1 of 9 checks cannot be told"
    assert "run plain round 0" in missing
    assert "No such file" in missing
    assert "--checkpoint-dir" not in missing, "the folder is where it was"
    assert "run night round 2" in changed
    assert "does not match its digest" in changed


def test_a_table_that_was_changed_together_with_its_checkpoint_is_found(flserver: Run, db: Path) -> None:
    (file,) = db.with_name("runs.sqlite.checkpoints").glob(f"{RUN}/round-000002-*")
    forged = file.read_bytes()[:-1] + b"!"
    file.write_bytes(forged)
    digest = "sha256:" + hashlib.sha256(forged).hexdigest()
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("UPDATE rounds SET model_digest = ? WHERE run_id = ? AND round = 2", (digest, RUN))
    code, _, err = flserver("--db", db, "verify")
    assert code == 1
    assert f"round 2, attempt 1: model_digest is {digest}" in err
    assert "does not match its digest" in err


def test_a_changed_event_is_found(flserver: Run, db: Path) -> None:
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("UPDATE events SET payload = replace(payload, '100', '101') WHERE type = 'ClientRegistered'")
    code, out, err = flserver("--db", db, "verify")
    assert code == 1
    assert "the payload was changed" in err
    assert "unbroken" not in out


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "7",
        "{}",
        "[1",
        '{"round": "two", "model_digest": null}',
        '{"round": 1e999, "model_digest": ""}',
        "[" * 10**5,
    ],
    ids=range(7),
)
def test_a_committed_round_whose_event_says_nothing_any_more_is_found(flserver: Run, db: Path, payload: str) -> None:
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("UPDATE events SET payload = ? WHERE type = 'RoundCommitted'", (payload,))
    code, _, err = flserver("--db", db, "verify")
    assert code == 1
    assert "the payload was changed" in err


def test_upgrade_makes_a_database_and_check_says_where_it_is(flserver: Run, tmp_path: Path) -> None:
    path = tmp_path / "new.sqlite"
    (made,) = lines(flserver("db", "upgrade", "--db", path))
    (checked,) = lines(flserver("--db", path, "db", "check"))
    state = json.loads(checked)
    assert (state["db"], state["schema"], state["at_head"]) == (str(path), state["newest"], True)
    assert made == f"{path} is at {state['newest']}"
    before = path.read_bytes()
    assert lines(flserver("--db", path, "db", "upgrade")) == [made], "and leaves it"
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_database(flserver: Run, tmp_path: Path) -> None:
    path = tmp_path / "empty.sqlite"
    path.touch()
    lines(flserver("db", "upgrade", "--db", path))
    assert lines(flserver("--db", path, *COUNT)) == ["n", "0"]


def test_a_database_that_a_server_has_open_is_not_upgraded(flserver: Run, db: Path) -> None:
    with DatabaseLock(db):
        refused(flserver("--db", db, "db", "upgrade"), "another flserver has")
        lines(flserver("--db", db, "runs"))


def test_upgrade_where_nothing_can_be_made(flserver: Run, tmp_path: Path) -> None:
    refused(flserver("db", "upgrade", "--db", tmp_path / "no" / "such" / "x.sqlite"), "cannot be")


@pytest.mark.parametrize("command", [("verify",), ("export-model", "night", "--out", "model.pt")])
def test_an_empty_checkpoint_dir_counts_as_left_out(
    flserver: Run, db: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(db.parent)
    assert flserver("--db", db, *command, "--checkpoint-dir", "")[0] == 0


def test_an_upgrade_by_hand_is_on_record_with_who_did_it_and_why(flserver: Run, tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    old_database(path)
    lines(flserver("--db", path, "db", "upgrade", "--actor", "Ada", "--reason", "before the new version"))
    acts = "SELECT run_id, process_id, kind, actor, reason FROM v1_operator_events"
    assert lines(flserver("--db", path, "query", acts, "--format", "csv"))[1:] == [
        ",0,upgrade,Ada,before the new version"
    ]
    assert lines(flserver("--db", path, "verify"))[1].startswith("1 events, an unbroken chain to")


def test_what_is_wrong_with_a_database_is_said(flserver: Run, db: Path) -> None:
    with DatabaseLock(db) as lock:
        lock.note_head(10**6, "sha256:of an event that the WAL had")
        code, out, _ = flserver("--db", db, "db", "check")
        assert code == 1
        assert json.loads(out)["open_in"]["pid"] == os.getpid()
    code, out, _ = flserver("--db", db, "db", "check")
    assert code == 1
    told = json.loads(out)
    assert told["open_in"] is None
    assert any("lacks commits: event 1000000 was durable" in problem for problem in told["problems"])
