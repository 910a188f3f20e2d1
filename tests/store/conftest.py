import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flserver.store.schema import ensure_head
from tests.patience import PATIENCE
from tests.store import story

Ask = Callable[..., list[tuple[object, ...]]]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A new database at head."""
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    return path


@pytest.fixture
def recorded(database: Path) -> Path:
    """A database with a whole run and one that a killed server left over."""
    story.write(database, story.whole_run())
    story.write(database, story.left_over(), run_id=story.LEFT, process_id=2)
    return database


@pytest.fixture
def ask(database: Path) -> Ask:
    """Plain SQL, each on a connection of its own: even an idle one keeps the file in WAL mode."""

    def run(sql: str, *parameters: object) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(database)) as connection:
            return connection.execute(sql, parameters).fetchall()

    return run


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can reach: pytest keeps its own to itself."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory
        directory.chmod(0o755)


# Everything is imported before the user changes: the interpreter's own files may be closed to the other one.
_AS_NOBODY = """
import os, sys
from pathlib import Path
import alembic.command, alembic.script
from flserver.errors import UsageError
from flserver.store.sqlite import DatabaseLock
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
path = Path(sys.argv[1])
"""


def as_nobody(code: str, *arguments: object) -> str:
    """What ``code`` prints as a user who owns nothing (root becomes nobody). ``path`` is the first argument."""
    command = [sys.executable, "-c", _AS_NOBODY + code, *map(str, arguments)]
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": root}, timeout=PATIENCE, check=True
    ).stdout
