"""A reader reads everything, changes nothing, and says in one line what is wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from flserver.errors import UsageError
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from tests.nobody import as_nobody
from tests.store import story


@pytest.fixture
def reader(recorded: Path) -> Reader:
    return Reader(recorded)


@pytest.mark.parametrize(
    "sql",
    [
        "ATTACH '{other}' AS other",
        "VACUUM INTO '{other}'",
        "VACUUM",
        "INSERT INTO runs SELECT * FROM runs",
        "UPDATE runs SET status = 'completed'",
        "DELETE FROM events",
        "CREATE TABLE x (y)",
        "CREATE TEMP TABLE x (y)",
        "CREATE TEMP VIEW x AS SELECT 1",
        "DROP VIEW v1_runs",
        "ALTER TABLE runs ADD COLUMN x",
        "REINDEX",
        "ANALYZE",
        "SAVEPOINT x",
        "PRAGMA journal_mode = WAL",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA user_version = 7",
        "PRAGMA writable_schema = ON",
        "PRAGMA optimize",
        "PRAGMA temp_store_directory = '/tmp'",
        "SELECT load_extension('x')",
    ],
)
def test_whatever_would_write_is_refused(reader: Reader, recorded: Path, sql: str) -> None:
    before = recorded.read_bytes()
    with pytest.raises(UsageError, match=r"only reads|not authorized|prohibited"):
        reader.query(sql.format(other=recorded.with_name("other")))
    assert recorded.read_bytes() == before
    assert [entry.name for entry in recorded.parent.iterdir()] == ["runs.sqlite"]


@pytest.mark.parametrize("sql", ["VACUUM INTO '{other}'", "ATTACH '{other}' AS other", "VACUUM"])
def test_the_end_of_the_transaction_opens_no_door(reader: Reader, recorded: Path, sql: str) -> None:
    with reader._connect() as connection:
        connection.exec_driver_sql("COMMIT")
        with pytest.raises(DBAPIError, match=r"authorization denied|not authorized"):
            connection.exec_driver_sql(sql.format(other=recorded.with_name("other")))
    assert [entry.name for entry in recorded.parent.iterdir()] == ["runs.sqlite"]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELEC 1", 'near "SELEC": syntax error'),
        ("SELECT * FROM nowhere", "no such table: nowhere"),
        ("SELECT 1; SELECT 2", "one statement that only reads, and there are several"),
        ("DELETE FROM runs", "^a query is one statement that only reads, and DELETE is none that does$"),
        ("-- of all\n /* now */ delete from runs", "and DELETE is none that does$"),
        ("SELECT deleted FROM runs", "no such column: deleted"),
        ("SELECT ?", "has no name"),
        ("SELECT :a", "value for binding"),
        ("SELECT '\ud800'", "surrogates not allowed"),
        ("SELECT 1 \0", "null character|unrecognized token"),
    ],
)
def test_bad_sql_is_a_usage_error_in_sqlites_words(reader: Reader, sql: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        reader.query(sql)


def test_query_reads_what_an_analyst_needs(reader: Reader) -> None:
    assert reader.query("SELECT name AS n, :x AS x FROM v1_runs WHERE run_id = :run", {"x": 5, "run": story.RUN}) == (
        ["n", "x"],
        [("night", 5)],
    )
    assert reader.query("SELECT key FROM v1_runs, json_each(config) ORDER BY key LIMIT 1")[1] == [("num_rounds",)]
    recursive = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 3) SELECT SUM(n) FROM t"
    assert reader.query(recursive)[1] == [(6,)]
    assert reader.query("PRAGMA integrity_check")[1] == [("ok",)]
    assert len(reader.query("PRAGMA table_info(v1_events)")[1]) == 7
    assert reader.query("") == ([], [])


def test_a_missing_or_foreign_file_is_a_usage_error(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    calls: list[Callable[[Reader], object]] = [Reader.runs, Reader.verify_chain, lambda r: r.query("SELECT 1")]
    for call in calls:
        with pytest.raises(UsageError, match="there is no database"):
            call(Reader(path))
    path.write_text("Dear diary, " * 100)
    for call in calls:
        with pytest.raises(UsageError, match="not a database"):
            call(Reader(path))
    path.write_bytes(b"")
    for call in calls:
        with pytest.raises(UsageError, match="no database of flserver"):
            call(Reader(path))


READ = """
print(len(Reader(path).runs()), Reader(path).verify_chain().problems)
"""


def test_somebody_elses_cleanly_stopped_database_can_be_read(public: Path) -> None:
    path = public / "runs.sqlite"
    ensure_head(path)
    story.write(path, story.whole_run())
    path.chmod(0o444)
    public.chmod(0o555)
    assert as_nobody(READ, path) == "1 ()\n"
