"""A purge that was interrupted after it was on record goes on with the same command."""

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.cli.conftest import Run, lines
from tests.cli.conftest import flserver as flserver
from tests.recorded_run import write_database

PURGE = ("--before", "2999-01-01", "--yes")


def traces(db: Path) -> bool:
    return any(b"Fjord hospital" in path.read_bytes() for path in db.parent.iterdir() if path.is_file())


def test_text_in_free_pages_is_overwritten_where_nothing_new_goes(flserver: Run, tmp_path: Path) -> None:
    db = tmp_path / "runs.sqlite"
    write_database(db)
    lines(flserver("--db", db, "purge", "--what", "payloads", *PURGE))
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("CREATE TABLE went (text)")
        connection.execute("INSERT INTO went VALUES (?)", ("Fjord hospital " * 1000,))
        connection.commit()
        connection.execute("DROP TABLE went")
        connection.commit()
    assert traces(db)
    said = lines(flserver("--db", db, "purge", "--what", "payloads", *PURGE))
    assert said == ["there is nothing to purge", "what went before was overwritten once more"]
    assert not traces(db)


def test_a_reader_keeps_the_text_and_that_is_said(flserver: Run, tmp_path: Path) -> None:
    db = tmp_path / "runs.sqlite"
    write_database(db)
    with closing(sqlite3.connect(db, isolation_level=None)) as reader:
        reader.execute("PRAGMA journal_mode = WAL")
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM clients").fetchone()
        code, _, err = flserver("--db", db, "purge", "--what", "payloads", *PURGE)
    assert (code, "give the same command again" in err) == (1, True)
    assert lines(flserver("--db", db, "purge", "--what", "payloads", *PURGE))[0] == "there is nothing to purge"


def test_checkpoints_that_the_record_has_deleted_go(flserver: Run, tmp_path: Path) -> None:
    db = tmp_path / "runs.sqlite"
    write_database(db)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    lines(flserver("--db", db, "purge", "--what", "checkpoints", *PURGE))
    gone = {path for path in files if not path.exists()}
    assert gone
    for path in gone:
        path.write_bytes(files[path])
    lines(flserver("--db", db, "purge", "--what", "checkpoints", *PURGE))
    assert not any(path.exists() for path in gone)
