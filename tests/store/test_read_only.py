"""A record where nothing can be written, such as an auditor's copy, is read there, or a line says how it can be."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flserver.store.writer import Writer
from tests.nobody import as_nobody
from tests.patience import PATIENCE
from tests.store import story

EVENTS = len(story.whole_run())
READ = """
from flserver.store.sqlite import revision_of
reader = Reader(path)
print(reader.query("SELECT COUNT(*) FROM v1_events")[1][0][0], reader.verify_chain().problems, bool(revision_of(path)))
"""
TELL = """
from flserver.store.sqlite import revision_of
for read in (lambda: Reader(path).runs(), lambda: revision_of(path)):
    try:
        read()
    except UsageError as error:
        print(error)
"""
HALF_A_TRANSACTION = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 2")
connection.execute("BEGIN IMMEDIATE")
connection.execute("CREATE TABLE filling (x)")
for _ in range(1000):
    connection.execute("INSERT INTO filling VALUES (zeroblob(500))")
os.kill(os.getpid(), signal.SIGKILL)
"""
Put = Callable[..., Path]


@pytest.fixture
def live(database: Path) -> Iterator[Path]:
    """A database whose server has committed events and is still there."""
    writer = Writer(database, run_id=story.RUN, process_id=1)
    writer.start(**story.QUIET)
    for event in story.whole_run():
        writer.emit(event)
    writer.flush()
    yield database
    writer.close()


@pytest.fixture
def put(public: Path) -> Put:
    """Copies a database, with the files beside it that have these ends, to where nobody can write."""

    def copy(database: Path, *ends: str) -> Path:
        for end in ("", *ends):
            file = Path(shutil.copy(f"{database}{end}", public))
            file.chmod(0o444)
        public.chmod(0o555)
        return public / database.name

    return copy


def read(path: Path) -> str:
    """What nobody reads there; nothing is left beside it."""
    before = sorted(path.parent.iterdir())
    said = as_nobody(READ, path)
    assert sorted(path.parent.iterdir()) == before
    return said


@pytest.mark.parametrize("ends", [("-wal",), ("-wal", "-shm")])
def test_what_a_killed_server_left_is_read_with_its_wal(live: Path, put: Put, ends: tuple[str, ...]) -> None:
    path = put(live, *ends)
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as alone:
        assert alone.execute("SELECT COUNT(*) FROM events").fetchone() == (0,), "all of it is in the WAL"
    assert read(path) == f"{EVENTS} () True\n"


def test_a_copy_that_is_marked_as_one_with_a_wal_and_has_none_is_read(live: Path, tmp_path: Path, put: Put) -> None:
    with closing(sqlite3.connect(live)) as source, closing(sqlite3.connect(tmp_path / "copy.sqlite")) as target:
        source.backup(target)
    path = put(tmp_path / "copy.sqlite")
    assert path.read_bytes()[18:20] == b"\2\2", "the header says WAL"
    assert read(path) == f"{EVENTS} () True\n"


def test_a_server_that_is_at_work_is_read_by_those_who_may_not_write_there(public: Path, database: Path) -> None:
    path = Path(shutil.copy(database, public))
    writer = Writer(path, run_id=story.RUN, process_id=1)
    writer.start(**story.QUIET)
    writer.emit(story.started()[0])
    writer.flush()
    for name in public.iterdir():
        name.chmod(0o444)
    public.chmod(0o555)
    assert read(path) == "1 () True\n"
    public.chmod(0o755)
    writer.close()


def test_what_must_be_rolled_back_first_is_said_with_what_to_copy_where(database: Path, put: Put) -> None:
    command = [sys.executable, "-c", HALF_A_TRANSACTION, str(database)]
    subprocess.run(command, timeout=PATIENCE)
    path = put(database, "-journal")
    first, second = as_nobody(TELL, path).splitlines()
    assert first == second
    assert first.startswith(f"{path} cannot be read where nothing can be written")
    assert "copy runs.sqlite, runs.sqlite-journal together into a folder of your own" in first
    assert "--db" in first
