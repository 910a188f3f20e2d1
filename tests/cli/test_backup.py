"""A record copied, and brought back."""

import contextlib
import json
import os
import socket
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from flserver.audit import backup
from flserver.audit.backup import back_up
from flserver.store.reader import Reader
from flserver.store.schema import downgrade
from tests import facts
from tests.cli.conftest import Run, lines, refused, spoil
from tests.recorded_run import PLAIN, RUN
from tests.store import story


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def checkpoints(db: Path) -> dict[str, bytes]:
    return files(db.with_name(f"{db.name}.checkpoints"))


@pytest.fixture
def kept(flserver: Run, db: Path, tmp_path: Path) -> Path:
    """A backup."""
    folder = tmp_path / "deep" / "kept"
    head = Reader(db).head()
    assert head is not None
    said, copied = lines(flserver("--db", db, "backup", folder))
    assert said == f"{folder / 'runs.sqlite'}: {head.seq} events, head {head.digest()}"
    assert copied.startswith("4 files copied, ")
    return folder


def test_a_backup_can_be_asked_as_it_is(flserver: Run, db: Path, kept: Path) -> None:
    copy = kept / "runs.sqlite"
    assert lines(flserver("--db", copy, "verify"))[-1] == "all 9 checks hold"
    assert checkpoints(copy) == checkpoints(db)
    assert flserver("--db", copy, "runs", "--format", "json") == flserver("--db", db, "runs", "--format", "json")
    assert sorted(path.name for path in kept.iterdir()) == ["backup.json", "runs.sqlite", "runs.sqlite.checkpoints"]
    assert {path.stat().st_mode & 0o777 for path in kept.rglob("*") if path.is_file()} == {0o640}


def test_an_earlier_backup_is_brought_up_to_date_and_only_what_is_new_is_copied(
    flserver: Run, db: Path, kept: Path
) -> None:
    before = {path: path.stat().st_ino for path in kept.rglob("round-*")}
    story.write(db, story.started("third", 3, "third"), run_id="third", process_id=3)
    *_, copied = lines(flserver("--db", db, "backup", kept))
    assert copied == "0 files copied, 0.0 MiB"
    assert {path: path.stat().st_ino for path in kept.rglob("round-*")} == before
    assert Reader(kept / "runs.sqlite").head() == Reader(db).head()
    assert json.loads((kept / "backup.json").read_text())["running"] == ["third"]


def test_a_folder_with_something_else_or_of_another_database_is_left_alone(
    flserver: Run, db: Path, kept: Path, tmp_path: Path
) -> None:
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "letters.txt").write_text("Dear")
    refused(flserver("--db", db, "backup", strange), "has something else in it, letters.txt")
    assert files(strange) == {"letters.txt": b"Dear"}
    before = files(kept)
    story.write(kept / "runs.sqlite", story.started("x", 3, "x"), run_id="x", process_id=3)
    spoiled = files(kept)
    assert spoiled != before
    refused(flserver("--db", db, "backup", kept), "is no earlier state of")
    assert files(kept) == spoiled
    refused(flserver("--db", db, "backup", db.parent), "is where the database itself lies")
    refused(flserver("--db", tmp_path / "none.sqlite", "backup", tmp_path / "new"), "there is no database")
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_that_is_gone_or_changed_is_told_and_the_rest_is_copied(
    flserver: Run, db: Path, tmp_path: Path
) -> None:
    spoil(db, RUN, 2)
    (gone,) = db.with_name("runs.sqlite.checkpoints").glob(f"{PLAIN}/*")
    gone.unlink()
    code, out, err = flserver("--db", db, "backup", tmp_path / "kept")
    assert code == 1
    assert "3 files copied" in out
    missing, changed = err.splitlines()
    assert missing.startswith("run plain round 0: ")
    assert "No such file" in missing
    assert changed.startswith("run night round 2: ")
    assert "and the record says sha256:" in changed


def test_what_is_pruned_meanwhile_is_in_the_backup_as_pruned(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pruned,) = db.with_name("runs.sqlite.checkpoints").glob(f"{RUN}/round-000002-*")
    copy = backup.copy_database

    def prune_after(source: Path, target: Path, begun: Callable[[], None]) -> None:
        copy(source, target)  # without what holds the files: it has to be copied again
        if pruned.exists():
            pruned.unlink()
            story.write(db, [facts.checkpoint_deleted(2, checkpoint=f"{RUN}/{pruned.name}")], run_id=RUN, process_id=1)

    monkeypatch.setattr(backup, "copy_database", prune_after)
    made = back_up(db, tmp_path / "kept")
    assert made.problems == ()
    row = Reader(tmp_path / "kept" / "runs.sqlite").committed_round(RUN, 2)
    assert row["checkpoint_deleted_at"] is not None
    assert checkpoints(tmp_path / "kept" / "runs.sqlite") == checkpoints(db)


def test_a_disk_without_room_is_one_line_and_leaves_no_database(
    flserver: Run, db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        refused(flserver("--db", db, "backup", tmp_path / "kept"), "cannot be a backup: No space left on device")
    assert not list((tmp_path / "kept").glob("*runs.sqlite"))
    refused(flserver("--db", tmp_path / "new.sqlite", "restore", tmp_path / "kept"), "is no backup")
    assert flserver("--db", db, "backup", tmp_path / "kept")[0] == 0, "the same folder, once there is room"


def test_where_the_newest_run_is_complete_it_is_told_how_to_see_it(flserver: Run, db: Path, tmp_path: Path) -> None:
    done = [*story.started("done", 3, "done"), facts.run_ended("completed", "sha256:0", "done")]
    story.write(db, done, run_id="done", process_id=3)
    lines(flserver("--db", db, "backup", tmp_path / "kept"))
    new = tmp_path / "new.sqlite"
    code, out, _ = flserver("--db", new, "restore", tmp_path / "kept")
    assert code == 0
    assert out.splitlines()[-1] == f"nothing is left to go on with; to see its newest run: flserver --db {new} show"


def test_it_is_restored_with_its_checkpoints_and_told_how_to_go_on(
    flserver: Run, db: Path, kept: Path, tmp_path: Path
) -> None:
    (tmp_path / "new").mkdir()
    new = tmp_path / "new" / "fresh.sqlite"
    code, out, err = flserver("--db", new, "restore", kept, "--actor", "Ada", "--reason", "the disk died")
    assert code == 0
    first, then = out.splitlines()
    assert first.startswith(f"{new} is as it was at ")
    assert then == f"to go on: flserver --db {new} --resume", "the newest run, plain, was interrupted"
    original, both = err.splitlines()
    assert original == f"the original is there: {db} on {socket.gethostname()}"
    assert both.startswith(f"if both are served, their records differ after event {Reader(db).head().seq}, ")
    assert lines(flserver("--db", new, "verify"))[-1] == "all 9 checks hold"
    assert checkpoints(new) == checkpoints(db)
    assert sorted(path.name for path in new.parent.iterdir()) == [
        "fresh.sqlite",
        "fresh.sqlite.checkpoints",
        "fresh.sqlite.lock",
    ]
    (said,) = Reader(new).query("SELECT kind, actor, reason FROM v1_operator_events WHERE kind = 'restore'")[1]
    assert said == ("restore", "Ada", "the disk died")
    refused(flserver("--db", new, "restore", kept), "is there already")


def test_what_a_restored_run_would_share_with_its_original_is_said(flserver: Run, db: Path, tmp_path: Path) -> None:
    config = {"num_rounds": 3, "audit_head": "/log/heads", "sign_key": "/etc/key"}
    resumed = replace(facts.run_resumed(config=config), run_id=PLAIN)
    story.write(db, [resumed, facts.run_ended("interrupted", None, PLAIN)], run_id=PLAIN, process_id=7)
    assert flserver("--db", db, "backup", tmp_path / "backup")[0] == 0
    code, _, err = flserver("--db", tmp_path / "new.sqlite", "restore", tmp_path / "backup")
    assert code == 0
    for said in ("notes its heads in /log/heads", "signs with /etc/key"):
        assert f"run plain {said}, as its original does: give it a file of its own with --" in err


@pytest.mark.parametrize(
    ("config", "does", "typed"),
    [
        ({"audit_head": "heads"}, "notes its heads in", "flserver --db {new} --resume --audit-head {new}.heads"),
        (
            {"sign_key": "key"},
            "signs with",
            "flserver keygen --out {new}.key && flserver --db {new} --resume --sign-key {new}.key",
        ),
        (
            {"sign_key": "key", "sign_key_passphrase_file": "/word"},
            "signs with",
            "flserver keygen --out {new}.key --passphrase-file /word"
            " && flserver --db {new} --resume --sign-key {new}.key",
        ),
    ],
    ids=["heads", "key", "locked key"],
)
def test_a_restored_run_does_not_go_on_with_its_originals_heads_or_key(
    flserver: Run, db: Path, tmp_path: Path, config: dict[str, str], does: str, typed: str
) -> None:
    (key, name), new = next(iter(config.items())), tmp_path / "new.sqlite"
    its, option = str(tmp_path / name), "--" + key.replace("_", "-")
    resumed = replace(facts.run_resumed(config={"num_rounds": 3, **config, key: its}), run_id=PLAIN)
    story.write(db, [resumed, facts.run_ended("interrupted", None, PLAIN)], run_id=PLAIN, process_id=7)
    assert flserver("--db", db, "backup", tmp_path / "backup")[0] == 0
    restored = json.loads(flserver("--db", new, "restore", tmp_path / "backup", "--json")[1])
    assert restored["command"] == typed.format(new=new)

    def complaints(place: Path, *more: object) -> list[str]:
        """What a start would be refused for, of what its original has."""
        asked = ("--db", place, "check", "--resume", "--server-port", 0, "--metrics-port", 0, *more, "--json")
        return [said for said in json.loads(flserver(*asked)[1])["problems"] if " is restored from " in said]

    (said,) = complaints(new)
    assert f"run plain is restored from a backup, and {does} {its}, as its original does: name a file" in said
    assert complaints(new, option, f"{new}.own") == []
    assert complaints(new, option, its) == [], "where somebody says so"
    assert complaints(db) == [], "the original is not restored"
    story.write(new, [facts.server_started(9)], run_id=PLAIN, process_id=9)
    assert complaints(new) == [], "it was settled when a server went on with it"


@pytest.mark.parametrize("damage", ["checkpoint", "gone", "table", "event"])
def test_a_backup_that_does_not_hold_is_not_restored(flserver: Run, kept: Path, tmp_path: Path, damage: str) -> None:
    copy = kept / "runs.sqlite"
    if damage == "checkpoint":
        spoil(copy, RUN, 3)
    elif damage == "gone":
        next(copy.with_name("runs.sqlite.checkpoints").glob(f"{RUN}/round-000003-*")).unlink()
    else:
        change = {
            "table": "UPDATE rounds SET model_digest = 'sha256:00' WHERE round = 3",
            "event": "UPDATE events SET at = '2020' WHERE seq = 3",
        }[damage]
        with contextlib.closing(sqlite3.connect(copy)) as connection, connection:
            connection.execute(change)
    (tmp_path / "new").mkdir()
    before = files(kept)
    code, out, err = flserver("--db", tmp_path / "new" / "runs.sqlite", "restore", kept)
    assert (code, out) == (1, "")
    assert err.endswith(" was not made: the backup does not hold\n")
    said = {"event": "event 3", "table": "round 3, attempt 1: model_digest is sha256:00"}
    assert said.get(damage, "run night round 3") in err
    assert files(tmp_path / "new") == {}
    assert files(kept) == before


def test_a_backup_of_a_running_server_says_so(flserver: Run, db: Path, tmp_path: Path) -> None:
    story.write(db, story.started("third", 3, "third"), run_id="third", process_id=3)
    assert flserver("--db", db, "backup", tmp_path / "kept")[0] == 0
    db.rename(tmp_path / "lost.sqlite")
    (tmp_path / "new").mkdir()
    code, _, err = flserver("--db", tmp_path / "new" / "runs.sqlite", "restore", tmp_path / "kept")
    assert code == 0
    assert f"{db} on {socket.gethostname()} was in use by run third" in err


def test_what_is_no_whole_backup_is_refused(flserver: Run, kept: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.sqlite"
    refused(flserver("--db", new, "restore", tmp_path / "nowhere"), "is no backup")
    manifest = kept / "backup.json"
    whole = json.loads(manifest.read_text())
    for wrong, said in (
        ({**whole, "file": "../here/runs.sqlite"}, "is no whole backup"),
        ({**whole, "more": 1}, "is no backup"),
        ([], "is no backup"),
    ):
        manifest.write_text(json.dumps(wrong))
        refused(flserver("--db", new, "restore", kept), said)
    manifest.write_text(json.dumps(whole))
    (kept / "runs.sqlite").unlink()
    refused(flserver("--db", new, "restore", kept), "is no whole backup")
    assert not list(tmp_path.glob("new.sqlite*"))


def test_two_records_of_one_past_are_told_apart(flserver: Run, db: Path, kept: Path, tmp_path: Path) -> None:
    copy, common = kept / "runs.sqlite", Reader(db).head().seq
    code, out, _ = flserver("verify", db, copy)
    assert (code, out.splitlines()[0]) == (0, f"the same up to event {common}")
    assert out.count("ends there") == 2
    story.write(db, story.started("third", 3, "third"), run_id="third", process_id=3)
    code, out, _ = flserver("verify", db, copy)
    assert code == 0, "one goes on where the other ends"
    assert f"{db} goes on with event {common + 1}, RunStarted at " in out
    story.write(copy, story.started("other", 3, "other"), run_id="other", process_id=3)
    code, out, _ = flserver("verify", db, copy)
    assert code == 1
    assert f"{copy} goes on with event {common + 1}, RunStarted at " in out
    refused(
        flserver("verify", db),
        "verify looks at the whole record, and takes no run; of two databases it says where they part",
    )


def test_a_copy_that_went_bad_in_a_backup_is_made_anew(flserver: Run, db: Path, kept: Path) -> None:
    spoil(kept / "runs.sqlite", RUN, 3)
    assert lines(flserver("--db", db, "backup", kept))[1].startswith("1 files copied")
    assert checkpoints(kept / "runs.sqlite") == checkpoints(db)


def test_a_backup_whose_end_was_cut_or_whose_manifest_lies_is_not_restored(
    flserver: Run, kept: Path, tmp_path: Path
) -> None:
    manifest = kept / "backup.json"
    whole = json.loads(manifest.read_text())
    for lie in ({"events": 1}, {"head": "sha256:" + "0" * 64}):
        manifest.write_text(json.dumps(whole | lie))
        code, _, err = flserver("--db", tmp_path / "new" / "runs.sqlite", "restore", kept)
        assert code == 1
        assert "the backup is of " in err
    assert files(tmp_path / "new") == {}


def test_a_backup_that_cannot_be_told_whole_is_not_restored(flserver: Run, kept: Path, tmp_path: Path) -> None:
    downgrade(kept / "runs.sqlite", "0009")
    with contextlib.closing(sqlite3.connect(kept / "runs.sqlite")) as connection, connection:
        connection.execute("UPDATE rounds SET accuracy = 0.999 WHERE round = 3")
    code, _, err = flserver("--db", tmp_path / "new.sqlite", "restore", kept)
    assert code == 1
    assert "was not made" in err


def test_nothing_that_is_there_is_replaced(flserver: Run, kept: Path, tmp_path: Path) -> None:
    theirs = next((kept / "runs.sqlite.checkpoints").glob(f"{RUN}/round-000003-*"))
    mine = tmp_path / "models" / RUN / theirs.name
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"something of mine")
    new = tmp_path / "new.sqlite"
    refused(flserver("--db", new, "restore", kept, "--checkpoint-dir", tmp_path / "models"), "is there already")
    assert files(tmp_path / "models") == {f"{RUN}/{theirs.name}": b"something of mine"}
    new.symlink_to(tmp_path / "nowhere")
    refused(flserver("--db", new, "restore", kept), "is there already")
    new.unlink()
    new.with_name("new.sqlite-journal").write_bytes(b"half")
    refused(flserver("--db", new, "restore", kept), "new.sqlite-journal is there already")


def test_a_backup_of_an_older_version_is_restored(flserver: Run, kept: Path, tmp_path: Path) -> None:
    copy = kept / "runs.sqlite"
    downgrade(copy, "0012")
    with contextlib.closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("PRAGMA user_version = 0")  # as that version has left it
    new = tmp_path / "new.sqlite"
    code, out, err = flserver("--db", new, "restore", kept)
    assert code == 0, err
    assert "all holds" in out
    assert lines(flserver("--db", new, "verify"))[-1] == "all 9 checks hold"
