"""What ``db roles`` prints makes a role that can read the views, and nothing else."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flserver.settings.places import Address
from tests.cli.conftest import Run
from tests.patience import PATIENCE
from tests.postgres_server import PostgresDatabase, binaries
from tests.store import story

pytestmark = pytest.mark.postgres
ROLE = "auditor"


@pytest.fixture
def granted(flserver: Run, postgres: PostgresDatabase) -> Iterator[PostgresDatabase]:
    """A record that ROLE has been given."""
    story.write(Address(postgres.url()), story.whole_run())
    story.write(Address(postgres.url()), story.left_over(), run_id=story.LEFT, process_id=2)
    code, statements, _ = flserver("--db", postgres.url(), "db", "roles", ROLE)
    assert code == 0
    postgres.ask(f"CREATE ROLE {ROLE} LOGIN")
    command = [str(binaries() / "psql"), "-X", "-v", "ON_ERROR_STOP=1", postgres.url()]
    subprocess.run(command, input=statements, text=True, stdout=subprocess.DEVNULL, check=True, timeout=PATIENCE)
    yield postgres
    postgres.ask(f"DROP OWNED BY {ROLE}")
    postgres.ask(f"DROP ROLE {ROLE}")


def test_the_role_reads_every_view_and_no_table(granted: PostgresDatabase) -> None:
    import psycopg

    relations = granted.ask(
        "SELECT n.nspname || '.' || relname, relkind FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace"
        " WHERE n.nspname IN ('public', 'flserver') AND relkind IN ('r', 'v', 'S')"
    )
    assert len(relations) > 30
    with psycopg.connect(granted.url(ROLE), autocommit=True) as connection:
        assert connection.execute("SELECT SUM(bytes) > 0, MIN(config ->> 'seed') FROM v1_runs, v1_messages").fetchone()
        connection.execute("SET default_transaction_read_only = off")
        for name, kind in relations:
            if kind == b"v" or kind == "v":
                connection.execute(f"SELECT * FROM {name} LIMIT 1")
            else:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(f"SELECT * FROM {name} LIMIT 1")
        for sql in (
            *("DELETE FROM v1_runs", "UPDATE v1_runs SET name = 'x'", "INSERT INTO v1_events DEFAULT VALUES"),
            *("CREATE TABLE x (y TEXT)", "CREATE TEMP TABLE x (y TEXT)", "CREATE VIEW x AS SELECT 1"),
            *("SELECT nextval('flserver.process_ids')", "TRUNCATE events", "ALTER TABLE runs ADD COLUMN x TEXT"),
        ):
            with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)):
                connection.execute(sql)


def test_the_commands_that_people_ask_with_are_the_roles_too(flserver: Run, granted: PostgresDatabase) -> None:
    mine = granted.url(ROLE)
    for command in (
        *(["runs"], ["show"], ["ask", "run_at_a_glance"], ["ask", "settings"], ["compare", story.RUN, story.LEFT]),
        *(["query", "SELECT COUNT(*) FROM v1_events"], ["export", "--view", "v1_rounds", "--out", "-"]),
    ):
        code, out, err = flserver("--db", mine, *command)
        assert (code, err) == (0, ""), command
        assert out
    code, _, err = flserver("--db", mine, "query", "SELECT * FROM events")
    assert code == 2
    assert "permission denied for table events; a query can only read, and no more than its role may see" in err


@pytest.mark.parametrize("command", [["query", "SELECT COUNT(*) FROM v1_events"], ["ask", "run_at_a_glance"]])
def test_who_asks_as_a_role_that_may_do_more_is_told_at_a_terminal_and_once(
    flserver: Run, granted: PostgresDatabase, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert flserver("--db", granted.url(), *command)[2] == "", "what runs every night has nothing to mail"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, _, err = flserver("--db", granted.url(), *command)
    assert (code, err.count("is asked as postgres, who may do more than read it"), err.count("\n")) == (0, 1, 1)
    assert "db roles" in err
    granted.ask(f"ALTER TABLE events OWNER TO {ROLE}")
    assert f"is asked as {ROLE}, who" in flserver("--db", granted.url(ROLE), *command)[2]
    granted.ask("ALTER TABLE events OWNER TO postgres")


def test_a_name_that_is_more_than_a_name_is_refused(flserver: Run, postgres: PostgresDatabase, db: Path) -> None:
    code, _, err = flserver("--db", postgres.url(), "db", "roles", "x; DROP TABLE events")
    assert code == 2
    assert "no plain name" in err
    code, _, err = flserver("--db", str(db), "db", "roles", ROLE)
    assert code == 2
    assert "roles are PostgreSQL's" in err
