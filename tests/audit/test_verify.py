"""How a record is verified: beside a server that writes it, with room, and with what it says to people and programs."""

import json
import shutil
import sqlite3
from collections import namedtuple
from contextlib import closing
from pathlib import Path

import pytest

from flserver.audit.verify import Verification
from flserver.observers.noted_heads import note_now
from flserver.store.schema import ensure_head
from flserver.store.scratch import scratch
from flserver.store.writer import Writer
from tests import facts
from tests.cli.conftest import Run, lines, refused
from tests.cli.conftest import flserver as flserver
from tests.recorded_run import write_database
from tests.store import story


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = tmp_path / "runs.sqlite"
    write_database(path)
    return path


def test_a_database_is_verified_while_it_is_written_and_nothing_of_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "live.sqlite"
    ensure_head(path)
    writer = Writer(path, run_id=story.RUN, process_id=1)
    writer.start(**story.QUIET)
    for event in story.sound_run():
        writer.emit(event)
    writer.flush()
    wal = path.with_name("live.sqlite-wal")
    assert wal.stat().st_size > 0, "the record is in there still"
    with scratch(path):
        writer.emit(facts.state_changed())
        writer.close()
        assert not wal.exists(), "a reader would have kept it"
    assert {finding.outcome for finding in Verification(path, with_checkpoints=False).run()} == {"holds"}


def test_what_it_says_as_json(flserver: Run, db: Path) -> None:
    (object_,) = [json.loads("\n".join(lines(flserver("--db", db, "verify", "--json"))))]
    assert list(object_) == [
        *("db", "schema", "events", "head", "purged", "tables", "verdict", "exit_code", "counts", "findings"),
    ]
    assert (object_["verdict"], object_["exit_code"], object_["findings"]) == ("holds", 0, [])
    assert object_["counts"]["holds"] == {"schema": 1, "chain": 1, "tables": 1, "sums": 1, "tree": 1, "checkpoints": 4}
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("UPDATE rounds SET accuracy = 0.99 WHERE round = 2")
    code, out, err = flserver("--db", db, "verify", "--json")
    assert (code, err) == (1, "")
    (finding,) = json.loads(out)["findings"]
    assert finding["line"].endswith("round 2, attempt 1: accuracy is 0.99, by the events 0.95")
    assert (finding["table"], finding["what"], finding["columns"]) == ("rounds", "changed", ["accuracy"])
    assert finding["key"] == {"run_id": finding["key"]["run_id"], "round": 2, "attempt": 1}


def test_many_differences_are_ten_lines_and_a_count(flserver: Run, tmp_path: Path) -> None:
    path = tmp_path / "many.sqlite"
    ensure_head(path)
    story.write(path, [*story.started(), *(facts.opened(number) for number in range(1, 31))])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE connections SET peer_port = 1")
    code, _, err = flserver("--db", path, "verify")
    assert code == 1
    assert len(err.splitlines()) == 12
    assert err.splitlines()[-2:] == ["… and 20 more in connections", "30 of 34 checks do not hold"]


def test_the_record_alone_is_verified_where_no_checkpoint_is_here(flserver: Run, db: Path) -> None:
    shutil.rmtree(db.with_name(f"{db.name}.checkpoints"))
    code, _, err = flserver("--db", db, "verify")
    assert (code, err.splitlines()[-1]) == (2, "4 of 9 checks cannot be told")
    assert lines(flserver("--db", db, "verify", "--without-checkpoints"))[-1] == "all 5 checks hold"


def test_where_there_is_no_room_for_the_copy_that_is_said_first(
    flserver: Run, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: namedtuple("Usage", "free")(1000))
    refused(flserver("--db", db, "verify"), "Make room, or name another folder in SQLITE_TMPDIR")


def test_the_copy_is_gone_afterwards(flserver: Run, db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path / "scratch"))
    lines(flserver("--db", db, "verify"))
    db.write_bytes(db.read_bytes()[:5000])
    assert flserver("--db", db, "verify")[0] != 0
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_copy_has_no_name_while_it_is_verified(db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever ends the process then leaves nothing of the record."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path / "scratch"))
    for finding in Verification(db).run():
        assert list((tmp_path / "scratch").iterdir()) == []
        assert finding.outcome == "holds"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), ("", "no head of a record is noted"), ("hello\n", "no head of a record is noted")],
)
def test_a_file_of_heads_that_says_nothing_is_refused(
    flserver: Run, db: Path, tmp_path: Path, content: str | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / "heads").write_text(content)
    refused(flserver("--db", db, "verify", "--audit-head", tmp_path / "heads"), reason)


def test_a_head_from_a_letter_needs_no_more_than_number_and_digest(flserver: Run, db: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(db)) as connection:
        ((seq, digest),) = connection.execute("SELECT seq, digest FROM events ORDER BY seq DESC LIMIT 1")
    letter = tmp_path / "letter"
    verify = ("--db", db, "verify", "--audit-head", letter)
    letter.write_text(f"{seq} {digest}")
    assert flserver(*verify)[0] == 0
    slip = digest[:-1] + ("1" if digest[-1] == "0" else "0")
    letter.write_text(f"{seq} {slip}\n")
    code, out, err = flserver(*verify)
    assert code == 1
    assert f"a noted head: event {seq} was {slip}" in out + err
    assert "unless the head was noted wrongly" in out + err


def test_what_stands_after_the_last_noted_head_cannot_be_told(flserver: Run, db: Path, tmp_path: Path) -> None:
    file = tmp_path / "heads"
    with closing(sqlite3.connect(db)) as connection:
        noted = connection.execute("SELECT seq, digest FROM events ORDER BY seq DESC LIMIT 1").fetchone()
    note_now(file, *noted)
    verify = ("--db", db, "verify", "--audit-head", file)
    assert flserver(*verify)[0] == 0
    story.write(db, [facts.state_changed() for _ in range(3)])
    code, _, err = flserver(*verify)
    assert code == 2
    assert f"3 events stand after the last head in {file}" in err
    lines(flserver("--db", db, "db", "downgrade", "0012", "--audit-head", file))
    lines(flserver("--db", db, "db", "upgrade", "--audit-head", file))
    assert flserver(*verify)[0] == 0, "a command notes its head too"
    wanted = ("purge", "--what", "payloads", "--before", "2999-01-01", "--yes")
    lines(flserver("--db", db, *wanted))
    assert flserver(*verify)[0] == 2
    lines(flserver("--db", db, "backup", tmp_path / "backup"))
    new = tmp_path / "new" / "runs.sqlite"
    new.parent.mkdir()
    assert flserver("--db", new, "restore", tmp_path / "backup", "--audit-head", file)[0] == 0
    assert flserver("--db", new, "verify", "--without-checkpoints", "--audit-head", file)[0] == 0


def test_a_purge_notes_its_head(flserver: Run, db: Path, tmp_path: Path) -> None:
    file = tmp_path / "heads"
    wanted = ("purge", "--what", "payloads", "--before", "2999-01-01", "--yes")
    lines(flserver("--db", db, *wanted, "--audit-head", file))
    assert flserver("--db", db, "verify", "--audit-head", file)[0] == 0


def test_a_round_that_counts_other_samples_than_its_updates_does_not_hold(flserver: Run, tmp_path: Path) -> None:
    """Also where chain and tables agree on it."""
    path = tmp_path / "sums.sqlite"
    ensure_head(path)
    events = [facts.attempt(0), facts.committed(0, data_size=7)]
    story.write(path, [*story.started(), *events])
    code, _, err = flserver("--db", path, "verify", "--without-checkpoints")
    assert code == 1
    assert err.splitlines() == [
        f"run {facts.RUN} round 0: data_size is 7, its accepted updates have 0",
        "1 of 5 checks does not hold",
    ]


@pytest.mark.parametrize(
    "statements",
    [
        ('CREATE VIEW v1_runs AS {v1_runs} WHERE "runs.run_id > 0"',),
        ("CREATE VIEW v1_runs AS {v1_runs} /* no */",),
    ],
)
def test_what_only_looks_like_the_views_text_is_found(flserver: Run, db: Path, statements: tuple[str, ...]) -> None:
    with closing(sqlite3.connect(db)) as connection, connection:
        (text,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'v1_runs'").fetchone()
        connection.execute("DROP VIEW v1_runs")
        for statement in statements:
            connection.execute(statement.format(v1_runs=text.partition(" AS ")[2]))
    code, _, err = flserver("--db", db, "verify", "--without-checkpoints")
    assert code == 1
    assert "the view v1_runs was changed" in err


def test_blanks_and_quotes_of_names_are_no_change(flserver: Run, db: Path) -> None:
    with closing(sqlite3.connect(db)) as connection, connection:
        (text,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'v1_operator_events'").fetchone()
        connection.execute("DROP VIEW v1_operator_events")
        connection.execute(text.replace(" FROM operator_events", '  FROM\n"operator_events"'))
    assert flserver("--db", db, "verify", "--without-checkpoints")[0] == 0


def test_a_table_with_a_name_like_sqlites_own_is_found(flserver: Run, db: Path) -> None:
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("CREATE TABLE hidden (x)")
        connection.execute(
            "UPDATE sqlite_master SET name = 'sqlite_stat8', tbl_name = 'sqlite_stat8',"
            " sql = 'CREATE TABLE sqlite_stat8 (x)' WHERE name = 'hidden'"
        )
    code, _, err = flserver("--db", db, "verify", "--without-checkpoints")
    assert code == 1
    assert "sqlite_stat8" in err


def test_a_mark_of_a_downgrade_hides_nothing_at_the_newest_schema(flserver: Run, db: Path) -> None:
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("PRAGMA user_version = 1")
        connection.execute("UPDATE rounds SET accuracy = 0.5 WHERE round = 3")
    code, _, err = flserver("--db", db, "verify", "--without-checkpoints")
    assert code == 1
    assert "accuracy is 0.5" in err


@pytest.mark.parametrize("salt", ["upper(salt)", "' ' || salt"])
def test_a_salt_has_one_way_to_be_written(flserver: Run, db: Path, salt: str) -> None:
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute(f"UPDATE events SET salt = {salt}")
    assert flserver("--db", db, "verify", "--without-checkpoints")[0] == 1


def test_a_file_of_heads_without_a_name_is_refused(flserver: Run, db: Path) -> None:
    refused(flserver("--db", db, "verify", "--audit-head", ""), "--audit-head is empty")


def test_runs_of_one_name_are_told_apart(flserver: Run, db: Path) -> None:
    """As a child and its parent are, whose checkpoints may both be gone."""
    child = [*story.started("child", 3, "night"), facts.attempt(0, process_id=3)]
    story.write(
        db, [*child, facts.committed(0, checkpoint="child/round-000000-00.safetensors")], run_id="child", process_id=3
    )
    shutil.rmtree(db.with_name(f"{db.name}.checkpoints"))
    told = [line.split(": ")[0] for line in flserver("--db", db, "verify")[2].splitlines()[:-1]]
    runs = ["night (20260131T090000Z-aaaaaa)", "plain", "night (child)"]
    assert told == [
        *(f"run {runs[0]} round {round}" for round in (0, 2, 3)),
        *(f"run {run} round 0" for run in runs[1:]),
    ]
