"""Kept updates in a backup, and purged."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from flserver.store.reader import Reader
from tests.cli.conftest import Run, lines, refused
from tests.kept_run import CHILD, RUN


def kept(db: Path, run_id: str = RUN) -> set[str]:
    folder = db.with_name(f"{db.name}.checkpoints")
    return {str(path.relative_to(folder)) for path in folder.glob(f"{run_id}/updates/*/*")}


def on_record(db: Path, run_id: str = RUN) -> set[str]:
    return {row["kept"] for row in Reader(db).kept_updates(run_id)}


def clients(db: Path, run_id: str = RUN) -> set[str]:
    return {row["client_id"] for row in Reader(db).kept_updates(run_id)}


def test_they_are_in_a_backup_and_are_restored(flserver: Run, db: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    new = tmp_path / "new" / "runs.sqlite"
    assert flserver("--db", db, "backup", tmp_path / "backup")[0] == 0
    assert kept(tmp_path / "backup" / "runs.sqlite") == kept(db) == on_record(db)
    assert flserver("--db", new, "restore", tmp_path / "backup")[0] == 0
    assert kept(new) == kept(db)
    assert flserver("--db", new, "replay", "night", "--round", "2")[0] == 0


def test_what_was_deleted_since_goes_from_the_backup(flserver: Run, db: Path, tmp_path: Path) -> None:
    assert flserver("--db", db, "backup", tmp_path / "backup")[0] == 0
    assert flserver("--db", db, "purge", "--what", "updates", "--client", "10", "--yes")[0] == 0
    assert flserver("--db", db, "backup", tmp_path / "backup")[0] == 0
    assert kept(tmp_path / "backup" / "runs.sqlite") == kept(db)


def test_one_that_is_missing_is_told(flserver: Run, db: Path, tmp_path: Path) -> None:
    gone = db.with_name(f"{db.name}.checkpoints") / sorted(on_record(db))[0]
    gone.unlink()
    code, _, err = flserver("--db", db, "backup", tmp_path / "backup")
    assert code == 1
    assert f"{gone}: No such file or directory" in err


def test_those_of_one_client_are_purged_and_the_others_stay(flserver: Run, db: Path) -> None:
    before = on_record(db)
    assert {"1", "10", "2"} == clients(db)
    said = lines(flserver("--db", db, "purge", "--what", "updates", "--client", "10"))
    assert said[0].endswith(" kept updates of 1 rounds") or " kept updates of 2 rounds" in "".join(said)
    assert on_record(db) == kept(db) == before, "nothing went yet"
    said = lines(flserver("--db", db, "purge", "--what", "updates", "--client", "10", "--yes"))
    assert said[-1] == "purged"
    assert clients(db) == {"1", "2"}
    assert kept(db) == on_record(db) < before
    assert clients(db, CHILD) == set()
    assert lines(flserver("--db", db, "verify"))[-1].startswith("all ")
    code, _, err = flserver("--db", db, "replay", "night", "--round", "2")
    assert (code, "not kept" in err) == (2, True)


@pytest.mark.parametrize("which", [("--run", "night"), ("--before", "2100-01-01")])
def test_those_of_a_run_or_from_before_a_date_are_purged(flserver: Run, db: Path, which: tuple[str, str]) -> None:
    assert flserver("--db", db, "purge", "--what", "updates", *which, "--yes")[0] == 0
    assert kept(db) == on_record(db) == set()
    assert bool(kept(db, CHILD)) == (which[0] == "--run")
    assert lines(flserver("--db", db, "verify"))[-1].startswith("all ")


def test_nothing_goes_without_saying_whose(flserver: Run, db: Path) -> None:
    refused(flserver("--db", db, "purge", "--what", "updates", "--yes"), "one of --run, --before and --client")
    assert lines(flserver("--db", db, "purge", "--what", "updates", "--client", "nobody", "--yes")) == [
        "there is nothing to purge",
        "what went before was overwritten once more",
    ]


@pytest.mark.parametrize("second", [("--run", "night"), ("--client", "2")])
def test_a_record_of_which_payloads_went_first_holds_when_its_kept_updates_go(
    flserver: Run, db: Path, second: tuple[str, str]
) -> None:
    assert flserver("--db", db, "purge", "--what", "payloads", "--run", "night", "--yes")[0] == 0
    before = {row["update_id"]: row["kept"] for row in Reader(db).kept_updates(RUN)}
    assert flserver("--db", db, "purge", "--what", "updates", *second, "--yes")[0] == 0
    assert lines(flserver("--db", db, "verify"))[-1].startswith("all ")
    after = {row["update_id"] for row in Reader(db).kept_updates(RUN)}
    update_id = min(before.keys() - after)
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("UPDATE updates SET kept = ? WHERE update_id = ?", (before[update_id], update_id))
    code, _, err = flserver("--db", db, "verify")
    assert code == 1
    assert f"updates update_id {update_id}: kept is " in err
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("UPDATE updates SET kept = NULL, data_size = 3 WHERE update_id = ?", (update_id,))
    code, _, err = flserver("--db", db, "verify")
    assert code == 1
    assert f"updates update_id {update_id}: " in err


def spoil(file: Path, how: str) -> None:
    whole = bytearray(file.read_bytes())
    if how == "a tensor":
        whole[-1] ^= 1
    elif how == "the header":
        whole[whole.index(b'"pt"') + 1] = ord("q")
    elif how == "the end":
        whole += b"more"
    elif how == "cut":
        del whole[-1:]
    file.write_bytes(whole)


@pytest.mark.parametrize("how", ["a tensor", "the header", "the end", "cut"])
def test_a_file_that_is_not_what_it_was_is_found(flserver: Run, db: Path, how: str) -> None:
    (row,) = [row for row in Reader(db).kept_updates(RUN) if (row["client_id"], row["answers_round"]) == ("10", 2)]
    file = db.with_name(f"{db.name}.checkpoints") / row["kept"]
    spoil(file, how)
    code, _, err = flserver("--db", db, "verify")
    assert (code, f"run night round 2 client 10: kept update {file} was changed: " in err) == (1, True), err
    assert lines(flserver("--db", db, "verify", "--without-checkpoints"))[-1].startswith("all ")


def test_one_that_is_not_here_is_counted_apart_and_one_that_went_is_not_missed(flserver: Run, db: Path) -> None:
    assert flserver("--db", db, "purge", "--what", "updates", "--client", "10", "--yes")[0] == 0
    assert len(on_record(db)) == 4
    (db.with_name(f"{db.name}.checkpoints") / min(on_record(db))).unlink()
    code, out, err = flserver("--db", db, "verify")
    assert (code, out.count("kept update blake3:"), err.count("kept update ")) == (2, 3, 1)
    assert ": No such file or directory" in err
    assert err.splitlines()[-1].startswith("1 of ")


def test_a_purge_that_was_interrupted_unlinks_what_the_record_has_deleted(flserver: Run, db: Path) -> None:
    folder = db.with_name(f"{db.name}.checkpoints")
    files = {folder / path: (folder / path).read_bytes() for path in on_record(db)}
    whose = ("--what", "updates", "--run", "night", "--yes")
    assert flserver("--db", db, "purge", *whose)[0] == 0
    for path, content in files.items():
        path.write_bytes(content)
    (folder / RUN / "updates" / "round-000002" / "mine.txt").write_text("stays")
    said = lines(flserver("--db", db, "purge", *whose))
    assert sum("is kept by the record no more, and still there" in line for line in said) == len(files)
    assert not any(path.exists() for path in files)
    assert (folder / RUN / "updates" / "round-000002" / "mine.txt").exists()
    assert kept(db, CHILD) == on_record(db, CHILD)


def test_one_that_was_changed_is_not_restored_and_is_copied_anew_to_a_backup(
    flserver: Run, db: Path, tmp_path: Path
) -> None:
    (tmp_path / "new").mkdir()
    new, copy = tmp_path / "new" / "runs.sqlite", tmp_path / "backup" / "runs.sqlite"
    assert flserver("--db", db, "backup", tmp_path / "backup")[0] == 0
    file = copy.with_name("runs.sqlite.checkpoints") / min(on_record(db))
    spoil(file, "a tensor")
    code, out, err = flserver("verify", db, copy)
    assert (code, f"{copy}: run night round 2 client " in err) == (1, True)
    assert out.splitlines()[-1] == "of the files that they name, 25 hold, 1 do not, and 0 are not here"
    assert flserver("verify", db, copy, "--without-checkpoints")[0] == 0
    code, _, err = flserver("--db", new, "restore", tmp_path / "backup")
    assert (code, "was changed: its tensors have the digest" in err, list(new.parent.iterdir())) == (1, True, [])
    assert flserver("--db", db, "backup", tmp_path / "backup")[0] == 0
    assert flserver("verify", db, copy)[0] == 0
    spoil(db.with_name(f"{db.name}.checkpoints") / min(on_record(db)), "a tensor")
    file.unlink()
    code, _, err = flserver("--db", db, "backup", tmp_path / "backup")
    assert (code, "was changed: it is not what its name says" in err) == (1, True)
