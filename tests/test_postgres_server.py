"""The PostgreSQL that tests have."""

import pytest

from tests.postgres_server import SUPERUSER, PostgresDatabase, PostgresServer, running_postgres

pytestmark = pytest.mark.postgres


def test_each_test_has_a_database_of_its_own_and_the_next_one_a_new_one(postgres_server: PostgresServer) -> None:
    import psycopg

    one = postgres_server.create()
    one.ask("CREATE TABLE found (word TEXT)")
    one.ask("INSERT INTO found VALUES (%s)", "said")
    template = postgres_server.template("said", lambda made: made.ask("CREATE TABLE said AS SELECT 'so' AS word"))
    other = postgres_server.create(template)
    assert other.ask("SELECT word FROM said") == [("so",)]
    assert other.ask("SELECT to_regclass('found')") == [(None,)]
    with one.connect() as left_open:
        one.drop()
        with pytest.raises(psycopg.OperationalError):
            left_open.execute("SELECT 1")
    other.drop()


def test_over_tcp_a_password_is_asked_for_and_by_the_socket_none(empty_postgres: PostgresDatabase) -> None:
    import psycopg

    with psycopg.connect(empty_postgres.url()) as connection:
        assert connection.execute("SELECT current_user, current_setting('fsync')").fetchone() == (SUPERUSER, "on")
    with psycopg.connect(empty_postgres.tcp_url(), password=empty_postgres.server.password) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(empty_postgres.tcp_url(), password="another")


def test_what_was_committed_is_there_after_a_kill() -> None:
    import psycopg

    with running_postgres() as server:
        database = server.create()
        database.ask("CREATE TABLE kept AS SELECT 1 AS one")
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            database.connect()
        server.start()
        assert database.ask("SELECT one FROM kept") == [(1,)]
