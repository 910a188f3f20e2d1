"""A record on PostgreSQL has the schema that the same migrations make of a file."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, inspect

from flserver.errors import UsageError
from flserver.settings.places import Address
from flserver.store.postgres.engines import connect, connect_for_reading, reading_engine, revision_of, writing_engine
from flserver.store.schema import check, ensure_head, migrate
from tests.postgres_server import PostgresDatabase, PostgresServer

pytestmark = pytest.mark.postgres

IN_SQLITE = {"BIGINT": "INTEGER", "DOUBLE PRECISION": "REAL", "VARCHAR(32)": "VARCHAR(32)", "TEXT": "TEXT"}


def schema_of(engine: Engine) -> dict[str, Any]:
    """Of each table its columns (name, type, whether it may be NULL), key, references and indexes; of each view its
    columns."""
    with engine.connect() as connection:
        found = inspect(connection)
        schema = "public" if engine.dialect.name == "postgresql" else None

        def columns(name: str) -> list[tuple[str, str, bool]]:
            return [(c["name"], str(c["type"]), c["nullable"]) for c in found.get_columns(name, schema)]

        tables = {
            name: (
                columns(name),
                found.get_pk_constraint(name, schema)["constrained_columns"],
                sorted((r["constrained_columns"], r["referred_table"]) for r in found.get_foreign_keys(name, schema)),
                sorted((i["name"], i["column_names"], bool(i["unique"])) for i in found.get_indexes(name, schema)),
            )
            for name in found.get_table_names(schema)
        }
        return tables | {name: columns(name) for name in found.get_view_names(schema)}


def in_sqlites_words(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: in_sqlites_words(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return type(found)(in_sqlites_words(part) for part in found)
    return IN_SQLITE.get(found, found)


def test_both_schemas_are_one(postgres: PostgresDatabase, database: Path) -> None:
    engine = create_engine(f"sqlite:///{database}")
    here, there = schema_of(engine), in_sqlites_words(schema_of(writing_engine(postgres.url())))
    engine.dispose()
    assert len(here) > 25
    assert here.keys() == there.keys()
    for name, meant in here.items():
        if name.startswith("v1_"):  # what SQLite computes has no type there
            typed = [(*column, kind) for column, (_, kind, _) in zip(meant, there[name], strict=True)]
            meant = [(name, found if kind == "NULL" else kind, True) for name, kind, _, found in typed]
        assert there[name] == meant, name


def test_what_a_view_computes_are_integers_too(postgres: PostgresDatabase) -> None:
    kinds = postgres.ask(
        "SELECT DISTINCT data_type FROM information_schema.columns WHERE table_name = 'v1_summaries'"
        " AND column_name IN ('connections', 'bytes_in') OR (table_name, column_name) = ('v1_runs', 'rounds_committed')"
    )
    assert kinds == [("bigint",)]


def test_a_second_upgrade_finds_nothing_to_do(postgres: PostgresDatabase, database: Path) -> None:
    before = schema_of(writing_engine(postgres.url()))
    postgres.ask("UPDATE flserver.head SET seq = 7")
    migrate(writing_engine(postgres.url()))
    assert schema_of(writing_engine(postgres.url())) == before
    assert postgres.ask("SELECT seq FROM flserver.head") == [(7,)], "what servers share stays"
    with reading_engine(postgres.url()).connect() as connection:
        assert revision_of(connection) == check(database).head


def test_an_empty_database_has_no_revision_and_anothers_is_refused(empty_postgres: PostgresDatabase) -> None:
    with reading_engine(empty_postgres.url()).connect() as connection:
        assert revision_of(connection) is None
    empty_postgres.ask("CREATE TABLE theirs (word TEXT)")
    with reading_engine(empty_postgres.url()).connect() as connection, pytest.raises(UsageError, match="of its own"):
        revision_of(connection)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("ENCODING 'LATIN1'", r"LATIN1.*createdb --template=template0 --encoding=UTF8 --locale=C NAME"),
        ("LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'und'", "another library than libc.*--locale-provider=libc NAME"),
    ],
)
def test_a_database_that_sorts_in_another_way_is_refused(postgres_server: PostgresServer, made: str, said: str) -> None:
    with postgres_server.connect() as connection:
        connection.execute(f"CREATE DATABASE sorted TEMPLATE template0 {made}".encode())
    database = PostgresDatabase(postgres_server, "sorted")
    with reading_engine(database.url()).connect() as connection, pytest.raises(UsageError, match=said):
        revision_of(connection)
    database.drop()


@pytest.mark.parametrize(("schema", "role"), [("public", "PUBLIC"), ("flserver", "mallory")])
def test_a_start_is_refused_where_others_may_create(postgres: PostgresDatabase, schema: str, role: str) -> None:
    ensure_head(Address(postgres.url()))
    postgres.ask("DO $$ BEGIN CREATE ROLE mallory; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    postgres.ask(f"GRANT CREATE ON SCHEMA {schema} TO {role}")
    with pytest.raises(UsageError, match=f"REVOKE CREATE ON SCHEMA {schema} FROM {role}"):
        ensure_head(Address(postgres.url()))
    postgres.ask(f"REVOKE CREATE ON SCHEMA {schema} FROM {role}")
    ensure_head(Address(postgres.url()))


def test_whoever_reads_or_writes_hears_of_an_end_that_is_gone(postgres: PostgresDatabase) -> None:
    for opened in (connect, connect_for_reading):
        with closing(opened(postgres.url())) as connection:
            found = connection.info.get_parameters()
        assert (found["connect_timeout"], found["tcp_user_timeout"], found["keepalives_idle"]) == ("5", "4000", "1")
    with closing(connect(postgres.url(connect_timeout="7"))) as connection:
        assert connection.info.get_parameters()["connect_timeout"] == "7"


@pytest.mark.parametrize(("stated", "is_now"), [("off", "on"), ("local", "local")])
def test_what_is_written_in_whatever_way_is_durable(postgres: PostgresDatabase, stated: str, is_now: str) -> None:
    postgres.ask(f"ALTER DATABASE {postgres.name} SET synchronous_commit = {stated}")
    with writing_engine(postgres.url()).connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == is_now
