"""A WAL, a database or a checkpoint that is not what was written: it is found, and the way that is left is named."""

import contextlib
import re
import sqlite3
from collections.abc import Callable

from flserver.audit.condition import problems
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer, ServerProcess

Join = Callable[..., list[Peer]]


def killed(start: Start, join: Join, rounds: int) -> ServerProcess:
    """A run that was killed with so many rounds committed; the WAL has all of it."""
    server = start("--num-rounds", "9", "--run-name", "ward", *FAST)
    (a,) = join(server, "a")
    for _ in range(rounds):
        a.answer(0.1)
    a.model()
    server.kill()
    return server


def flipped(content: bytes, at: int) -> bytes:
    """The same with one bit changed."""
    changed = bytearray(content)
    changed[at] ^= 1
    return bytes(changed)


def checked(server: ServerProcess) -> list[str]:
    """What ``db check`` finds."""
    return list(problems(server.db))


def test_a_damaged_wal_is_found_and_a_child_goes_on(start: Start, join: Join) -> None:
    server = killed(start, join, 3)
    wal, index = server.db.with_name("runs.sqlite-wal"), server.db.with_name("runs.sqlite-shm")
    sound, before = wal.read_bytes(), server.db.read_bytes()
    assert checked(server) == []
    for damaged in (sound[: len(sound) * 3 // 4], flipped(sound, len(sound) * 3 // 4), flipped(sound, -100)):
        server.db.write_bytes(before)
        wal.write_bytes(damaged)
        index.unlink(missing_ok=True)
        problems = checked(server)
        assert any("lacks commits: event" in problem for problem in problems)
        assert any("-wal is damaged" in problem for problem in problems)
        resumed = start("--resume", "--run-name", "ward")
        assert resumed.exit_code() == 1
        assert "lacks commits: event" in resumed.lines[-1]
        way_out = re.search(r"a run of its own at round (\d), .*--resume-from (\d)$", resumed.lines[-1])
        assert way_out is not None, resumed.log
    server.db.write_bytes(before)
    wal.unlink()
    for option in ("--run-name=ward", "--num-rounds=9"):
        resumed = start("--resume", option)
        assert resumed.exit_code() == 1
        assert "lacks commits: event" in resumed.lines[-1]
    wal.write_bytes(damaged)
    child = start("--run-name", "ward", "--resume-from", way_out[2], "--num-rounds", "1", *FAST)
    child.wait_for_line("lacks commits")
    (a,) = join(child, "a")
    a.answer()
    a.finished()
    assert child.exit_code() == 0, child.log


def test_a_damaged_database_is_found(start: Start, join: Join) -> None:
    server = killed(start, join, 2)
    with contextlib.closing(sqlite3.connect(server.db)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ((page,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'rounds'").fetchall()
        ((size,),) = connection.execute("PRAGMA page_size").fetchall()
        ((seq, payload),) = connection.execute(
            "SELECT seq, payload FROM events WHERE type = 'RoundCommitted' ORDER BY seq DESC LIMIT 1"
        ).fetchall()
    sound = server.db.read_bytes()
    server.db.write_bytes(flipped(sound, (page - 1) * size))  # what kind of page it is
    assert any("is damaged" in problem for problem in checked(server))
    resumed = start("--resume", "--run-name", "ward")
    assert resumed.exit_code() == 1
    assert "is damaged" in resumed.lines[-1]
    assert "--initial-weights" in resumed.lines[-1]
    at = sound.index(payload.encode()) + payload.index('"model_digest":"sha256:') + 30
    server.db.write_bytes(flipped(sound, at))
    assert any("the chain of events is broken" in problem for problem in checked(server))
    resumed = start("--resume", "--run-name", "ward")
    assert resumed.exit_code() == 1
    assert f"event {seq} is not what the chain has there" in resumed.lines[-1]
    assert "--resume-from 1" in resumed.lines[-1]
    server.db.write_bytes(sound)
    again = start("--resume", "--run-name", "ward", "--num-rounds", "3", "--time-to-wait", "0.3")
    (a,) = join(again, "a")
    a.answer()
    a.finished()
    assert again.exit_code() == 0, "what was put back is as good as before"


def test_a_damaged_checkpoint_is_found_and_the_round_before_it_is_named(start: Start, join: Join) -> None:
    server = killed(start, join, 2)
    ((path,),) = server.sql("SELECT checkpoint FROM v1_rounds WHERE round = 2 AND status = 'committed'")
    file = server.db.with_name("runs.sqlite.checkpoints") / path
    sound = file.read_bytes()
    for damaged in (flipped(sound, -1), sound[:1000], None):
        file.unlink() if damaged is None else file.write_bytes(damaged)
        (problem,) = checked(server)
        assert "run ward cannot go on from round 2: checkpoint " in problem
        resumed = start("--resume", "--run-name", "ward")
        assert resumed.exit_code() == 1
        assert "at round 1, the newest whose checkpoint is sound: " in resumed.lines[-1]
        assert resumed.lines[-1].endswith(f"--db {server.db} --run-name ward --resume-from 1")
