"""The schema is the contract's, and a file is made, upgraded or refused; never harmed."""

import logging
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine

from flserver.errors import UsageError
from flserver.store import tables
from flserver.store.reader import Reader
from flserver.store.schema import SchemaState, Upgrade, as_it_will_be, check, ensure_head, migrations_directory
from flserver.store.sqlite_copies import temporary_folder
from tests.nobody import as_nobody
from tests.patience import PATIENCE
from tests.store import story
from tests.store.conftest import Ask

CONTRACT = {
    "v1_runs": "run_id, name, status, started_at, ended_at, num_rounds, rounds_committed, model, strategy, seed, "
    "config, final_digest, parent_run_id, parent_round, server_version, arithmetic",
    "v1_processes": "process_id, run_id, host, user, pid, server_version, python_version, torch_version, overrides, "
    "started_at, ended_at, exit_code, resumed_from_round, code, libraries, cpu",
    "v1_nodes": "run_id, node, slot, process_id, host, pid, listen_host, listen_port, started_at, ended_at, lost, "
    "end_reason, connections, updates, updates_lost, bytes_in, bytes_out, code, libraries, cpu",
    "v1_operator_events": "run_id, process_id, at, kind, detail, actor, reason",
    "v1_clients": "run_id, client_id, registration, connection_id, identity, data_size, info, registered_at, left_at, "
    "left_reason, label, metadata",
    "v1_connections": "run_id, connection_id, peer_host, peer_port, client_id, purpose, transport, "
    "certificate_subject, certificate_fingerprint, opened_at, closed_at, close_reason, bytes_in, bytes_out, "
    "proxy_host, node",
    "v1_summaries": "run_id, minute, prefix, reason, purpose, header, outcome, connections, messages, message_bytes, "
    "answers, failed_answers, bytes_in, bytes_out",
    "v1_messages": "run_id, message_id, connection_id, client_id, round, direction, header, encoding, bytes, digest, "
    "at, seconds, outcome, reason",
    "v1_updates": "run_id, update_id, message_id, connection_id, client_id, answers_round, answers_attempt, "
    "arrived_round, decision, reason, update_digest, data_size, weight, received_at, wait_seconds, upload_seconds, "
    "update_norm, identity, parameters_norm, buffers_norm, counted_size, kept, update_cosine",
    "v1_rounds": "run_id, round, attempt, status, process_id, started_at, ended_at, deadline_at, seconds, "
    "broadcast_seconds, wait_seconds, aggregate_seconds, evaluate_seconds, checkpoint_seconds, clients, "
    "updates_accepted, data_size, base_digest, model_digest, checkpoint, checkpoint_bytes, checkpoint_deleted_at, "
    "loss, accuracy, event_seq, reason, arithmetic",
    "v1_client_rounds": "run_id, round, attempt, client_id, participation, decision, reason, data_size, weight, "
    "sent_at, seconds, bytes_in, bytes_out, update_norm, counted_size, update_cosine",
    "v1_round_metrics": "run_id, round, name, value, source, note",
    "v1_client_metrics": "run_id, round, client_id, name, value, measured_on, source, note",
    "v1_heads": "run_id, process_id, at, size, root, key, note, event_seq",
    "v1_events": "seq, run_id, type, at, payload, previous_digest, digest",
}

HEAD = sorted((migrations_directory() / "versions").glob("[0-9]*.py"))[-1].name.partition("_")[0]
NEXT = f"{int(HEAD) + 1:04}"

LATER = """
from alembic import op
revision = "{later}"
down_revision = "{head}"
def upgrade():
    op.execute("ALTER TABLE runs ADD COLUMN note TEXT")
    {more}
"""


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """The migrations of a later version: those of today and one more."""
    return later_migrations(tmp_path)


def later_migrations(place: Path, more: str = "") -> Path:
    directory = place / "migrations"
    shutil.copytree(migrations_directory(), directory)
    (directory / "versions" / f"{NEXT}_later.py").write_text(LATER.format(more=more, later=NEXT, head=HEAD))
    return directory


@pytest.mark.parametrize("view", CONTRACT)
def test_a_view_has_the_contracts_columns_in_order(database: Path, view: str) -> None:
    assert Reader(database).query(f"SELECT * FROM {view}")[0] == CONTRACT[view].split(", ")


def test_there_is_no_other_view(ask: Ask) -> None:
    assert {name for (name,) in ask("SELECT name FROM sqlite_master WHERE type = 'view'")} == set(CONTRACT)


def test_the_tables_for_statements_are_the_migrated_ones(database: Path) -> None:
    def differences(connection: Connection) -> list[object]:
        # Indexes and foreign keys stand in the migrations only: statements do not need them.
        ours = [d for d in compare_metadata(context(connection), tables.metadata) if "index" not in d[0]]
        return [d for d in ours if d[0] != "remove_fk"]

    def context(connection: Connection) -> MigrationContext:
        return MigrationContext.configure(connection, opts={"compare_type": True, "include_name": include})

    def include(name: str | None, kind: str, parents: object) -> bool:
        return name != "alembic_version"

    engine = create_engine(f"sqlite:///{database}")
    with engine.connect() as connection:
        assert differences(connection) == []
        for table in tables.metadata.sorted_tables:
            info = connection.exec_driver_sql(f"PRAGMA table_info({table.name})").mappings().all()
            assert [row["name"] for row in info] == [column.name for column in table.columns]
            assert [row["name"] for row in info if row["pk"]] == [column.name for column in table.primary_key]
            assert [not row["notnull"] for row in info] == [column.nullable for column in table.columns]
    engine.dispose()


def test_every_table_of_ours_is_strict(ask: Ask) -> None:
    loose = ask("SELECT name FROM pragma_table_list WHERE type = 'table' AND NOT strict AND schema = 'main'")
    assert {name for (name,) in loose} <= {"alembic_version", "sqlite_schema", "sqlite_sequence"}


def test_a_new_database_is_made_at_head(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    assert check(path) == SchemaState(current=None, head=HEAD)
    assert not path.exists()
    assert ensure_head(path) is None
    assert check(path) == SchemaState(current=HEAD, head=HEAD)
    assert [entry.name for entry in tmp_path.iterdir()] == ["runs.sqlite"]


def test_a_database_at_head_is_left_alone(recorded: Path) -> None:
    before = recorded.read_bytes()
    assert ensure_head(recorded) is None
    assert recorded.read_bytes() == before


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    path.touch()
    ensure_head(path)
    assert check(path).at_head


def test_a_file_name_is_not_a_uri(tmp_path: Path) -> None:
    path = tmp_path / "a b%20?mode=memory#é.sqlite"
    ensure_head(path)
    story.write(path, story.started())
    assert path.stat().st_size > 0
    assert len(Reader(path).runs()) == 1


def test_an_old_database_is_upgraded_after_a_copy(recorded: Path, newer: Path) -> None:
    before = recorded.read_bytes()
    copy = recorded.with_name(f"runs.sqlite.before-{NEXT}")
    assert ensure_head(recorded, migrations=newer) == Upgrade(before=HEAD, after=NEXT, copy=copy)
    assert check(recorded, migrations=newer) == SchemaState(current=NEXT, head=NEXT)
    assert "note" in Reader(recorded).query("SELECT * FROM runs")[0]
    assert recorded.read_bytes() != before
    assert check(copy) == SchemaState(current=HEAD, head=HEAD)
    assert Reader(copy).verify_chain() == Reader(recorded).verify_chain()


def test_a_database_of_the_first_schema_keeps_its_rows_and_gains_columns(tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.copytree(migrations_directory(), first)
    for later in sorted((first / "versions").glob("[0-9]*.py"))[1:]:
        later.unlink()
    path = tmp_path / "runs.sqlite"
    ensure_head(path, migrations=first)
    values = {
        "runs": ("run", "night", "completed", "t", None, 1, 1, "m", "fedavg", 0, "{}", None, None, None, 1),
        "connections": (7, "run", "10.0.0.7", 4, "3", "upload", "tcp", None, None, "t", "t", "closed", 9, 0),
        "clients": ("run", "3", 1, 7, "claimed", 100, "{}", 0, "t", "t", "finished"),
        "updates": (1, "run", 1, 7, "3", 1, 1, 1, "accepted", None, "d", 100, 1.0, "t", 0.1, 0.1, 0.5),
    }
    connection = sqlite3.connect(path)
    for table, row in values.items():
        connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    connection.commit()
    connection.close()
    upgrade = ensure_head(path)
    assert upgrade is not None
    assert (upgrade.before, upgrade.after) == ("0001", HEAD)
    reader = Reader(path)
    for view, added in (
        ("v1_connections", (None, None)),
        ("v1_clients", (None, None)),
        ("v1_updates", ("claimed", None, None, 100, None, None)),
    ):
        columns, rows = reader.query(f"SELECT * FROM {view}")
        assert columns == CONTRACT[view].split(", ")
        old, _ = Reader(upgrade.copy).query(f"SELECT * FROM {view}")
        assert columns[: len(old)] == old, "columns are only added, and at the end"
        assert rows[0][len(old) :] == added
        assert rows[0][: len(old)] == Reader(upgrade.copy).query(f"SELECT * FROM {view}")[1][0]


def test_a_database_can_be_read_as_it_will_be_before_anything_is_written(recorded: Path, newer: Path) -> None:
    new, before = recorded.with_name("new.sqlite"), recorded.read_bytes()
    folder = sorted(recorded.parent.iterdir())
    with as_it_will_be(new) as reader:
        assert reader.runs() == []
        with pytest.raises(UsageError, match=r"new\.sqlite has no run 'night'"):
            reader.run("night")
    with as_it_will_be(recorded, migrations=newer) as reader:
        assert "note" in reader.query("SELECT * FROM runs")[0]
        assert len(reader.runs()) == 2
    with as_it_will_be(recorded) as reader:
        assert len(reader.runs()) == 2
    assert (sorted(recorded.parent.iterdir()), recorded.read_bytes()) == (folder, before)


def test_what_only_the_wal_holds_is_in_what_will_be(database: Path, newer: Path) -> None:
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("CREATE TABLE only_in_wal (x)")
    with as_it_will_be(database, migrations=newer) as reader:
        assert reader.query("SELECT * FROM only_in_wal") == (["x"], [])
    connection.close()


def test_an_upgrade_that_would_fail_fails_before_anything_is_written(recorded: Path, tmp_path: Path) -> None:
    migrations, before = later_migrations(tmp_path, 'op.execute("DROP TABLE nowhere")'), recorded.read_bytes()
    with pytest.raises(UsageError, match="no such table: nowhere"), as_it_will_be(recorded, migrations=migrations):
        pass
    assert recorded.read_bytes() == before


@pytest.mark.parametrize("most", [8, 200], ids=["the copy", "the changes"])
def test_where_the_temporary_folder_is_full_that_is_said_and_what_to_do(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """A database that may have so many pages stands for a disk that has no room for more."""
    migrations = later_migrations(tmp_path, 'op.execute("CREATE TABLE large AS SELECT zeroblob(10000000) AS x")')
    folder, before = tmp_path / "full", recorded.read_bytes()
    folder.mkdir()
    monkeypatch.setenv("SQLITE_TMPDIR", str(folder))

    def small() -> sqlite3.Connection:
        connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        connection.execute(f"PRAGMA max_page_count = {most}")
        return connection

    monkeypatch.setattr("flserver.store.sqlite_copies.nameless", small)
    with pytest.raises(UsageError) as caught, as_it_will_be(recorded, migrations=migrations):
        pass
    free = rf"in {re.escape(str(folder))}, which has [\d,]+ MiB free: an upgrade is tried there first"
    said = rf"{re.escape(str(recorded))} cannot be upgraded: that takes up to \d+ MiB {free}\. .* in SQLITE_TMPDIR"
    assert re.fullmatch(said, str(caught.value))
    assert recorded.read_bytes() == before


def test_where_the_databases_own_folder_is_full_that_is_said(
    recorded: Path, newer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, copy: Path) -> None:
        with closing(sqlite3.connect(copy)) as connection:
            connection.execute("PRAGMA max_page_count = 8")
            with closing(sqlite3.connect(source)) as database:
                database.backup(connection)

    monkeypatch.setattr("flserver.store.sqlite_database.copy_database", full)
    with pytest.raises(UsageError, match=rf"MiB in {re.escape(str(recorded.parent))}, .* a copy beside it"):
        ensure_head(recorded, migrations=newer)


def test_the_temporary_folder_is_the_one_that_sqlite_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path / "gone"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert temporary_folder() == tmp_path
    for name in ("SQLITE_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name)
    assert temporary_folder() == Path("/var/tmp")


def test_a_copy_is_never_overwritten(recorded: Path, newer: Path) -> None:
    precious = recorded.with_name(f"runs.sqlite.before-{NEXT}")
    precious.write_text("precious")
    upgrade = ensure_head(recorded, migrations=newer)
    assert upgrade is not None
    assert upgrade.copy.name == f"runs.sqlite.before-{NEXT}-2"
    assert precious.read_text() == "precious"


def test_the_copy_has_what_only_the_wal_holds(database: Path, newer: Path) -> None:
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("CREATE TABLE only_in_wal (x)")
    upgrade = ensure_head(database, migrations=newer)
    connection.close()
    assert upgrade is not None
    assert Reader(upgrade.copy).query("SELECT * FROM only_in_wal") == (["x"], [])
    assert Reader(upgrade.copy).query("PRAGMA journal_mode")[1] == [("delete",)]


def test_a_failed_upgrade_changes_nothing(recorded: Path, tmp_path: Path) -> None:
    migrations = later_migrations(tmp_path, 'op.execute("DROP TABLE nowhere")')
    with pytest.raises(UsageError, match="no such table: nowhere"):
        ensure_head(recorded, migrations=migrations)
    assert check(recorded).at_head
    assert "note" not in Reader(recorded).query("SELECT * FROM runs")[0]


def test_a_newer_database_is_refused(recorded: Path, newer: Path) -> None:
    ensure_head(recorded, migrations=newer)
    before = recorded.read_bytes()
    with pytest.raises(UsageError, match=f"newer flserver: its schema is {NEXT}, this one knows up to {HEAD}"):
        ensure_head(recorded)
    assert recorded.read_bytes() == before


def test_another_programs_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    for use in (ensure_head, check):
        with pytest.raises(UsageError, match="another program"):
            use(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    path.write_text("Dear diary, " * 100)
    with pytest.raises(UsageError, match="not a database"):
        ensure_head(path)
    assert path.read_text() == "Dear diary, " * 100
    assert [entry.name for entry in tmp_path.iterdir()] == ["runs.sqlite"]


def test_a_directory_and_a_missing_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory"):
        ensure_head(tmp_path)
    with pytest.raises(UsageError, match="there is no directory"):
        ensure_head(tmp_path / "missing" / "runs.sqlite")


ENSURE = """
try:
    if sys.argv[2:]:
        with DatabaseLock(path):
            pass
    else:
        ensure_head(path)
except UsageError as error:
    print(error)
"""


def test_a_file_or_directory_that_cannot_be_written_is_one_line(public: Path) -> None:
    database = public / "runs.sqlite"
    ensure_head(database)
    database.chmod(0o444)
    public.chmod(0o555)
    assert as_nobody(ENSURE, public / "new.sqlite") == f"{public} cannot be written\n"
    assert as_nobody(ENSURE, database) == f"{database} cannot be written\n"
    assert as_nobody(ENSURE, database, "lock") == f"{database}.lock cannot be opened: Permission denied\n"


def test_alembic_is_quiet(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.INFO):
        ensure_head(tmp_path / "runs.sqlite")
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_alembic_is_imported_only_where_it_is_used() -> None:
    code = "import sys, flserver.store.writer, flserver.store.reader; sys.exit('alembic' in sys.modules)"
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": root}, check=True, timeout=PATIENCE)
