"""What the handbook says of roles, backups and restores on PostgreSQL, done with PostgreSQL's own programs."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flserver.settings.places import Address
from flserver.store.reader import Reader
from tests.cli.conftest import flserver as flserver
from tests.patience import PATIENCE
from tests.postgres_server import PostgresDatabase, PostgresServer, binaries
from tests.store import story

pytestmark = pytest.mark.postgres
Program = Callable[..., str]


@pytest.fixture
def program(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Program]:
    """Runs one of PostgreSQL's programs. What the test makes is gone after it."""
    env = os.environ | {"PGHOST": str(postgres_server.folder), "PGPORT": str(postgres_server.port)}

    def run(name: str, *arguments: str, user: str = "postgres", stdin: str = "") -> str:
        command, env_of = [str(binaries() / name), *arguments], env | {"PGUSER": user}
        done = subprocess.run(
            command, env=env_of, cwd=tmp_path, input=stdin, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield run
    for name in ("runs", "restored"):
        run("dropdb", "--if-exists", "--force", name)
    for role in ("reader", "fl"):
        run("dropuser", "--if-exists", role)


def test_a_role_that_is_no_superuser_owns_a_record_that_is_dumped_and_restored(
    flserver: Callable[..., tuple[int, str, str]], program: Program, postgres_server: PostgresServer
) -> None:
    """An answer of each step is in the next one: what is restored holds, is read by the same role, and goes on."""
    made = ["--template=template0", "--encoding=UTF8", "--locale=C", "--owner=fl"]
    program("createuser", "fl")
    program("createdb", *made, "runs")
    record = Address(PostgresDatabase(postgres_server, "runs").url("fl"))
    assert flserver("--db", record, "db", "upgrade")[0] == 0
    story.write(record, story.sound_run())
    program("psql", "-c", "CREATE ROLE reader LOGIN", "runs")
    _, grants, _ = flserver("--db", record, "db", "roles", "reader")
    program("psql", "-v", "ON_ERROR_STOP=1", "runs", stdin=grants)
    _, verified, _ = flserver("--db", record, "verify", "--without-checkpoints")
    program("pg_dump", "--format=custom", "--file=runs.dump", "runs", user="fl")
    program("createdb", *made, "restored")
    program("pg_restore", "--exit-on-error", "--no-owner", "--dbname=restored", "runs.dump", user="fl")
    restored = PostgresDatabase(postgres_server, "restored")
    code, said, err = flserver("--db", restored.url("fl"), "verify", "--without-checkpoints")
    assert (code, said, err) == (0, verified, "")
    ((head,),) = restored.ask("SELECT digest FROM flserver.head")
    assert re.search(f"chain to {head}", said)
    _, grants, _ = flserver("--db", restored.url("fl"), "db", "roles", "reader")
    program("psql", "-v", "ON_ERROR_STOP=1", "restored", stdin=grants)
    code, _, err = flserver("--db", restored.url("reader"), "query", "SELECT COUNT(*) FROM v1_events")
    assert (code, err) == (0, "")
    there = Address(restored.url("fl"))
    before = Reader(there).verify_chain().events
    story.write(there, story.started("r9", 9, "later"), run_id="r9", process_id=9)
    assert (Reader(there).verify_chain().events, Reader(there).verify_chain().problems) == (before + 2, ())
