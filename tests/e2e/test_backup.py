"""Backups while a server writes, and a run that goes on from one."""

import re
import threading
from collections.abc import Callable
from pathlib import Path

from flserver.audit.backup import back_up
from flserver.audit.verify import Verification
from tests.e2e.command import flserver
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer, ServerProcess, sql
from tests.patience import PATIENCE

Join = Callable[..., list[Peer]]
ROUNDS = 100_000  # more than there is time for


def test_what_is_copied_while_rounds_go_on_holds_and_can_be_gone_on_with(
    start: Start, join: Join, tmp_path: Path
) -> None:
    server = start("--num-rounds", str(ROUNDS), "--min-clients", "1", "--keep-checkpoints", "2", *FAST)
    (trainer,) = join(server, "a")
    stop = threading.Event()

    def train() -> None:
        while not stop.is_set():
            trainer.answer(0.01)
            stop.wait(0.03)  # so that rounds leave the two others some of the processors

    training = threading.Thread(target=train)
    training.start()
    try:
        server.wait_for_sql("SELECT 1 FROM v1_rounds WHERE status = 'committed' AND round > 1")
        committed = []
        for number in range(3):
            folder = tmp_path / ("nightly" if number < 2 else "once")
            assert back_up(server.db, folder).problems == ()
            copy = folder / "runs.sqlite"
            assert all(finding.outcome == "holds" for finding in Verification(copy).run())
            (kept,) = sql(copy, "SELECT MAX(round) FROM v1_rounds WHERE status = 'committed'")
            committed.append(kept[0])
            files = {path.name for path in folder.glob("runs.sqlite.checkpoints/*/round-*")}
            named = "SELECT checkpoint FROM v1_rounds WHERE status = 'committed' AND checkpoint_deleted_at IS NULL"
            assert files == {Path(name).name for (name,) in sql(copy, named)}
            before = server.sql("SELECT MAX(round) FROM v1_rounds WHERE status = 'committed'")[0][0]
            server.wait_for_sql(f"SELECT 1 FROM v1_rounds WHERE status = 'committed' AND round > {before}")
    finally:
        stop.set()
        training.join()
    assert sorted(committed) == committed
    assert len(set(committed)) == 3, "rounds went on meanwhile"
    server.kill()
    trainer.connection.close()

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    restored = elsewhere / "runs.sqlite"
    code, said = flserver("--db", restored, "restore", tmp_path / "once")
    assert code == 0, said
    assert f"to go on: flserver --db {restored} --resume" in said
    assert f"the original is there: {server.db}" in said
    last = committed[-1] + 1
    with ServerProcess(elsewhere, "--resume", "--num-rounds", str(last), "--time-to-wait", "0.3") as resumed:
        with Peer(resumed, "a").join() as again:
            again.answer(0.5)
            again.finished()
        assert resumed.exit_code() == 0
    assert flserver("--db", restored, "verify")[0] == 0
    code, said = flserver("verify", server.db, restored)
    assert code == 1, "both went on"
    events = sql(tmp_path / "once" / "runs.sqlite", "SELECT MAX(seq) FROM v1_events")[0][0]
    assert re.match(rf"the same up to event {events}\n", said), said


CLOCK = '''
import time

REAL = time.time_ns
JUMPS, ROUND = {2: -3600, 4: 172800}, [-1]


def jumping():
    """A wall clock that goes back by an hour, and later forth by two days."""
    return REAL() + 10**9 * sum(seconds for at, seconds in JUMPS.items() if ROUND[0] >= at)


time.time_ns = jumping


def evaluate(model, round):
    ROUND[0] = round
    return {"loss": 1.0 / (1 + round)}
'''


def test_a_wall_clock_that_jumps_leaves_durations_and_order_right(start: Start, join: Join, tmp_path: Path) -> None:
    (tmp_path / "clockwork.py").write_text(CLOCK)
    server = start("--num-rounds", "5", "--min-clients", "1", "--evaluate", "clockwork:evaluate", *FAST)
    (trainer,) = join(server, "a")
    for _ in range(5):
        trainer.answer(0.01)
    trainer.finished()
    assert server.exit_code() == 0
    times = [at for (at,) in server.sql("SELECT at FROM v1_events ORDER BY seq")]
    assert times != sorted(times), "the clock went back"
    steps = server.sql("SELECT MAX(julianday(ended_at)) - MIN(julianday(ended_at)) FROM v1_rounds")
    assert steps[0][0] > 1.9, "and forth"
    seconds = """
        SELECT seconds FROM v1_rounds UNION ALL SELECT broadcast_seconds FROM v1_rounds
        UNION ALL SELECT wait_seconds FROM v1_rounds UNION ALL SELECT aggregate_seconds FROM v1_rounds
        UNION ALL SELECT evaluate_seconds FROM v1_rounds UNION ALL SELECT checkpoint_seconds FROM v1_rounds
        UNION ALL SELECT seconds FROM v1_client_rounds UNION ALL SELECT seconds FROM v1_messages
        UNION ALL SELECT wait_seconds FROM v1_updates UNION ALL SELECT upload_seconds FROM v1_updates"""
    found = [value for (value,) in server.sql(seconds) if value is not None]
    assert len(found) > 50
    assert all(0 <= value < PATIENCE for value in found), found
    order = server.sql("SELECT round FROM v1_rounds ORDER BY event_seq")
    assert order == [(round,) for round in range(6)]
    assert flserver("--db", server.db, "verify")[0] == 0
