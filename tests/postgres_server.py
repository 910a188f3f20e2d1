"""A PostgreSQL server for tests: one a test session (each of xdist's workers has its own), a database a test.

It is a real one, with fsync, that this session makes and ends. Whoever comes by its unix socket is believed; over TCP,
on loopback, a password is asked for.
"""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.patience import PATIENCE, eventually
from tests.ports import free_port

if TYPE_CHECKING:
    import psycopg

BINARIES = Path("/usr/lib/postgresql")  # Debian's, by version: they are not on the PATH
SUPERUSER = "postgres"
ACCESS = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
TEMPLATE = "flserver_newest"


def binaries() -> Path:
    """The folder of ``postgres`` and ``initdb``."""
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    folders = [path.parent for path in BINARIES.glob("*/bin/postgres")]
    assert folders, "no PostgreSQL is installed (Debian: postgresql-15); -m 'not postgres' leaves its tests out"
    return max(folders, key=lambda folder: float(folder.parent.name))


def _as_an_ordinary_user() -> list[str]:
    """What a command begins with: PostgreSQL does not run as root. Who it is started by ends it, by ending."""
    user = ["--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
    return ["setpriv", *user, "--pdeathsig=SIGQUIT"]


class PostgresServer:
    """A cluster in ``folder``, which every user can reach; ``start`` it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.password = secrets.token_hex(8)
        """What ``SUPERUSER`` is asked for over TCP."""
        self.port = 0
        self.pid = 0
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)
        self._make()

    def _make(self) -> None:
        data = self.folder / "data"
        data.mkdir()
        if os.geteuid() == 0:
            for path in (self.folder, data):
                shutil.chown(path, "nobody", "nogroup")
        password = self.folder / "password"
        password.write_text(f"{self.password}\n", encoding="utf-8")
        options = f"--username={SUPERUSER} --pwfile={password} --encoding=UTF8 --locale=C --no-sync --auth=trust"
        command = [*_as_an_ordinary_user(), str(binaries() / "initdb"), *options.split(), f"--pgdata={data}"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        (data / "pg_hba.conf").write_text(ACCESS, encoding="utf-8")

    def start(self, *options: str) -> None:
        """Start it, on the port that it had before. ``options`` are settings, ``name=value``."""
        if not self.port:
            self.port = free_port()
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}"]
        # A small one, that does its work at once: what it lost by a kill the kernel has, and syncs in one call.
        settings += [
            "shared_buffers=16MB",
            "max_connections=60",
            "jit=off",
            "recovery_init_sync_method=syncfs",
            *options,
        ]
        command = [*_as_an_ordinary_user(), str(binaries() / "postgres"), "-D", str(self.folder / "data")]
        for setting in settings:
            command += ["-c", setting]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self.pid = self._process.pid
        eventually(self._answers, self._said)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._said()
        import psycopg

        with suppress(psycopg.OperationalError), self.connect():
            return True
        return False

    def _said(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-4000:]

    def stop(self) -> None:
        """End it in order, whoever is connected. May be called again."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it and all processes of it by SIGKILL, as a loss of power does."""
        if self._process is not None:
            listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii").split()
            self._end(signal.SIGKILL)
            for child in map(int, listed):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            eventually(lambda: not any(map(_runs, listed)))

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(PATIENCE)
            self._process = None

    def connect(self, database: str = "postgres", **options: Any) -> "psycopg.Connection[Any]":
        """A connection of the superuser's over the socket, in autocommit."""
        import psycopg

        return psycopg.connect(
            host=str(self.folder), port=self.port, user=SUPERUSER, dbname=database, autocommit=True, **options
        )

    def create(self, template: str = "template0") -> "PostgresDatabase":
        """A new database, as ``template`` is."""
        name = f"test_{next(self._numbers)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return PostgresDatabase(self, name)

    def template(self, name: str, make: "Callable[[PostgresDatabase], object]") -> str:
        """The template of that name, which ``make`` fills when it is asked for first."""
        with self.connect() as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
                connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
                try:
                    make(PostgresDatabase(self, name))
                except BaseException:
                    connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
                    raise
        return name


def _runs(pid: str) -> bool:
    """Whether there is such a process, and it is not one that has ended and that nobody has asked for yet."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    return False


class PostgresDatabase:
    """A database of the server's."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self.server = server
        self.name = name

    def url(self, user: str = SUPERUSER, **parameters: str) -> str:
        """Its address by the unix socket, as libpq and ``--db`` take it."""
        more = "".join(f"&{key}={value}" for key, value in parameters.items())
        return f"postgresql://{user}@/{self.name}?host={self.server.folder}&port={self.server.port}{more}"

    def tcp_url(self, user: str = SUPERUSER) -> str:
        """Its address on loopback, where ``server.password`` is asked for; it is not in it."""
        return f"postgresql://{user}@127.0.0.1:{self.server.port}/{self.name}"

    def connect(self, **options: Any) -> "psycopg.Connection[Any]":
        """As the superuser, in autocommit."""
        return self.server.connect(self.name, **options)

    def ask(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Plain SQL, on a connection of its own; nothing, where it answers no rows."""
        with self.connect() as connection:
            found = connection.execute(sql.encode(), parameters or None)
            return found.fetchall() if found.description else []

    def drop(self) -> None:
        """Whoever is connected is cut off."""
        with self.server.connect() as connection:
            connection.execute(f"DROP DATABASE {self.name} WITH (FORCE)")


@contextmanager
def running_postgres(*options: str, directory: Path | None = None) -> Iterator[PostgresServer]:
    """A server of one's own, to be stopped, killed and started again; ended and gone after the block."""
    with tempfile.TemporaryDirectory(prefix="flpg-", dir=directory) as name:  # a socket's path has 107 bytes
        folder = Path(name)
        folder.chmod(0o755)
        server = PostgresServer(folder)
        try:
            server.start(*options)
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The session's server, which nobody stops."""
    with running_postgres() as server:
        yield server


def at_head(database: PostgresDatabase) -> None:
    """Make the newest schema."""
    from flserver.store.postgres.engines import writing_engine
    from flserver.store.schema import migrate

    migrate(writing_engine(database.url()))


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> Iterator[PostgresDatabase]:
    """A database at head."""
    database = postgres_server.create(postgres_server.template(TEMPLATE, at_head))
    yield database
    database.drop()


@pytest.fixture
def empty_postgres(postgres_server: PostgresServer) -> Iterator[PostgresDatabase]:
    """A database without anything in it."""
    database = postgres_server.create()
    yield database
    database.drop()
