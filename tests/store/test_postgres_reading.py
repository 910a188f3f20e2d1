"""Whatever SQL is given to a reader on PostgreSQL: it reads, and changes nothing."""

import pytest

from flserver.errors import UsageError
from flserver.settings.places import Address
from flserver.store.postgres.asking import bound
from flserver.store.reader import Reader
from tests.postgres_server import PostgresDatabase
from tests.store import story

pytestmark = pytest.mark.postgres


@pytest.fixture
def recorded(postgres: PostgresDatabase) -> PostgresDatabase:
    story.write(Address(postgres.url()), story.whole_run())
    postgres.ask("CREATE FUNCTION public.loud() RETURNS BIGINT LANGUAGE sql AS 'DELETE FROM heads; SELECT 1::BIGINT'")
    return postgres


def state(database: PostgresDatabase) -> list[object]:
    return [
        database.ask("SELECT COUNT(*), MAX(seq) FROM events"),
        database.ask("SELECT status FROM runs"),
        database.ask("SELECT COUNT(*) FROM heads"),
        database.ask("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"),
        database.ask("SELECT last_value FROM flserver.process_ids"),
    ]


WRITES = (
    "DELETE FROM events",
    "UPDATE runs SET status = 'completed'",
    "INSERT INTO runs SELECT * FROM runs",
    "WITH gone AS (DELETE FROM heads RETURNING *) SELECT * FROM gone",
    "SELECT 1; DELETE FROM heads",
    "SELECT 1; COMMIT; BEGIN READ WRITE; DELETE FROM heads",
    "COMMIT",
    "BEGIN READ WRITE",
    "SET TRANSACTION READ WRITE",
    "SET default_transaction_read_only = off",
    "SELECT set_config('transaction_read_only', 'off', false)",
    "SELECT loud()",
    "SELECT nextval('flserver.process_ids')",
    "SELECT * FROM runs FOR UPDATE",
    "CREATE TABLE x (y TEXT)",
    "CREATE TEMP TABLE x (y TEXT)",
    "SELECT * INTO x FROM runs",
    "DO $$ BEGIN DELETE FROM heads; END $$",
    "COPY runs TO PROGRAM 'cat'",
    "TRUNCATE heads",
    "DROP VIEW v1_runs CASCADE",
    "VACUUM",
    "LOCK TABLE runs",
    "NOTIFY x",
)


def test_whatever_would_write_is_refused(recorded: PostgresDatabase) -> None:
    before, reader = state(recorded), Reader(Address(recorded.url()))
    for sql in WRITES:
        with pytest.raises(UsageError):
            reader.query(sql)
        assert state(recorded) == before, sql


def test_a_transaction_cannot_be_told_to_write_by_what_comes_first(recorded: PostgresDatabase) -> None:
    before = state(recorded)
    with Reader(Address(recorded.url())).asking() as asked:
        assert asked.rows("SELECT set_config('default_transaction_read_only', 'off', false)")[1] == [("off",)]
        with pytest.raises(UsageError, match="read-only transaction; a query can only read"):
            asked.rows("SELECT loud()")
    assert state(recorded) == before


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("SELECT * FROM nowhere", 'relation "nowhere" does not exist'),
        ("SELECT 1; SELECT 2", "one statement that only reads, and there are several"),
        ("DELETE FROM runs", "^a query is one statement that only reads, and DELETE is none that does$"),
        ("SELECT deleted FROM runs", 'column "deleted" does not exist'),
        ("SELECT :a", "You did not supply a value for binding parameter :a"),
        ("SELECT '\ud800'", "surrogates not allowed"),
        ("SELECT 1 \0", "null character"),
        ("", "there is no SQL"),
    ],
)
def test_bad_sql_is_one_line_in_the_databases_words(postgres: PostgresDatabase, sql: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Reader(Address(postgres.url())).query(sql)
    assert "\n" not in str(caught.value)


def test_a_statement_and_an_idle_reader_end_some_time(postgres: PostgresDatabase) -> None:
    sql = "SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout')"
    assert Reader(Address(postgres.url())).query(sql)[1] == [("10min", "10min")]


def test_a_large_answer_is_read_a_page_at_a_time(postgres: PostgresDatabase) -> None:
    with Reader(Address(postgres.url())).asking() as asked:
        _, pages = asked.pages("SELECT generate_series(1, 100000000000)")
        assert next(pages)[0] == (1,), "nobody waits for all of it"
        assert asked.rows("SELECT 1")[1] == [(1,)], "several questions at once"
        assert len(next(pages)) == 1000


def test_a_value_is_put_only_where_a_parameter_stands() -> None:
    sql = "SELECT ':a', \":a\", $q$:a$q$, E'\\':a', x::text, /* :a */ :a -- :a"
    assert bound(sql, {"a": "it's"}) == sql.replace("/* :a */ :a", "/* :a */ 'it''s'")
    assert bound("SELECT :a, :b, :c", {"a": None, "b": True, "c": b"\1"}) == "SELECT NULL, '1', '\\x01'"
