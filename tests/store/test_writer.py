"""Promise 2: what ``flush`` returned from is durable. A failure stops everything, a clean stop leaves one file."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flserver import events as e
from flserver.clock import Deadline
from flserver.errors import StoreError
from flserver.store import writer as writer_module
from flserver.store.reader import Reader
from flserver.store.sqlite import writing_engine
from tests.patience import PATIENCE
from tests.store import story
from tests.store.conftest import Ask
from tests.store.recording import Recording, states


@pytest.fixture
def recording(database: Path) -> Iterator[Recording]:
    recording = Recording(database)
    recording.start()
    yield recording
    recording.gate.set()
    recording.writer.close()


def test_flush_returns_only_when_another_connection_can_read_the_row(recording: Recording, ask: Ask) -> None:
    for number in range(1, 20):
        recording.writer.emit(e.StateChanged(state=str(number)))
        recording.writer.flush()
        assert ask("SELECT COUNT(*) FROM v1_events") == [(number,)]


def test_a_commit_is_synchronous(recording: Recording) -> None:
    # 2 is FULL: NORMAL would lose the last commits of a WAL in a power failure.
    connection = recording.writer._record._connection
    assert connection is not None
    driver = connection.connection.driver_connection
    assert driver is not None
    pragmas = ("synchronous", "journal_mode", "foreign_keys")
    assert [driver.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas] == [2, "wal", 1]


def test_a_transaction_locks_from_its_first_moment(database: Path) -> None:
    other = sqlite3.connect(database, timeout=0, isolation_level=None)
    with closing(other), writing_engine(database).begin(), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")


def test_an_event_that_nobody_waits_for_is_written_all_the_same(recording: Recording, ask: Ask) -> None:
    recording.writer.emit(e.StateChanged(state="joining"))
    recording.wait_for(lambda: bool(recording.batches))
    assert ask("SELECT type FROM v1_events") == [("StateChanged",)]


def test_companions_share_a_transaction(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "LINGER", PATIENCE)
    events = states(10)
    for event in events:
        recording.writer.emit(event)
        with recording.seen:
            assert not recording.seen.wait_for(lambda: bool(recording.batches), 0.01)
    flushing = threading.Thread(target=recording.writer.flush)
    flushing.start()
    flushing.join(PATIENCE / 2)  # it cuts the linger short
    assert recording.batches == [events]
    flushing.join()


def test_flush_returns_when_those_who_watch_have_seen_it(recording: Recording) -> None:
    recording.gate.clear()
    recording.writer.emit(e.StateChanged(state="joining"))
    flushing = threading.Thread(target=recording.writer.flush)
    flushing.start()
    recording.wait_for(lambda: bool(recording.batches))  # durable, and being looked at
    flushing.join(0.05)
    assert flushing.is_alive()
    recording.gate.set()
    flushing.join()


def test_a_batch_is_bounded(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "LINGER", PATIENCE)
    monkeypatch.setattr(writer_module, "MAX_BATCH", 4)
    events = states(10)
    for event in events:
        recording.writer.emit(event)
    recording.wait_for(lambda: len(recording.batches) == 2)  # a full batch does not linger, the other two do
    recording.writer.close()
    assert recording.batches == [events[:4], events[4:8], events[8:]]


def test_observers_see_every_event_once_and_in_order(recording: Recording, ask: Ask) -> None:
    def append(name: int) -> None:
        for number in range(200):
            recording.writer.emit(e.StateChanged(state=f"{name}", detail=f"{number:03}"))

    threads = [threading.Thread(target=append, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recording.writer.close()
    seen = [event for batch in recording.batches for event in batch]
    rows = ask("SELECT json_extract(payload, '$.state'), json_extract(payload, '$.detail') FROM v1_events ORDER BY seq")
    assert [(event.state, event.detail) for event in seen if isinstance(event, e.StateChanged)] == rows
    assert len(rows) == 800
    for name in range(4):
        assert [detail for state, detail in rows if state == f"{name}"] == [f"{number:03}" for number in range(200)]


def test_the_chain_goes_on_in_the_next_process(database: Path, ask: Ask) -> None:
    for number in range(3):
        story.write(database, states(5), process_id=number)
    found = Reader(database).verify_chain()
    assert (found.events, found.problems) == (15, ())
    assert ask("SELECT DISTINCT process_id FROM events") == [(0,), (1,), (2,)]


def test_the_writer_tells_where_it_stands(recording: Recording, ask: Ask) -> None:
    writer = recording.writer
    assert (writer.sequence, writer.last_digest) == (0, "sha256:" + "0" * 64)
    recording.gate.clear()
    writer.emit(e.StateChanged(state="joining"))
    recording.wait_for(lambda: bool(recording.batches))
    for event in states(3):
        writer.emit(event)
    # The first one is durable, but those who watch have not seen it yet.
    assert (writer.sequence, writer.queue_length, writer.alive) == (1, 4, True)
    assert ask("SELECT digest FROM v1_events") == [(writer.last_digest,)]
    assert len(recording.seconds) == 1
    recording.gate.set()
    writer.close()
    assert (writer.sequence, writer.queue_length, writer.alive) == (4, 0, False)


def test_flush_of_nothing_returns_at_once(recording: Recording) -> None:
    recording.writer.flush()
    assert not recording.batches


def test_a_failed_commit_fails_everything_from_then_on(recording: Recording, ask: Ask) -> None:
    writer = recording.writer
    for event in story.started():
        writer.emit(event)
    writer.flush()
    writer.emit(e.StateChanged(state="lost with its transaction"))
    writer.emit(story.started()[0])  # the same run again
    with pytest.raises(StoreError, match="UNIQUE constraint failed"):
        writer.flush()
    with pytest.raises(StoreError, match="UNIQUE constraint failed"):
        writer.emit(e.StateChanged(state="after it"))
    with pytest.raises(StoreError, match="UNIQUE constraint failed"):
        writer.flush()
    writer.close()
    assert not writer.alive
    assert len(recording.failures) == 1
    assert ask("SELECT COUNT(*) FROM v1_events") == [(2,)]


def test_flush_wakes_when_the_writer_fails(recording: Recording) -> None:
    recording.writer.emit(e.ClientLeft(client_id="9", registration=1, connection_id=9, reason="closed"))
    deadline = Deadline.after(PATIENCE)
    with pytest.raises(StoreError, match="no open row"):
        recording.writer.flush()
    assert not deadline.passed


def test_a_text_that_utf_8_cannot_hold_does_not_fail_the_writer(recording: Recording, ask: Ask) -> None:
    for event in [*story.started(), story.opened(1)]:
        recording.writer.emit(event)
    reason = "\ud800 \udfff"
    closed = e.ConnectionClosed(
        connection_id=1, purpose="unknown", client_id=None, reason=reason, bytes_in=0, bytes_out=0
    )
    recording.writer.emit(closed)
    recording.writer.flush()
    assert ask("SELECT close_reason FROM v1_connections") == [(r"\ud800 \udfff",)]


def test_what_is_not_json_fails_its_emitter_only(recording: Recording) -> None:
    with pytest.raises(TypeError):
        recording.writer.emit(e.OperatorActed(kind="start", detail={"x": object()}))
    recording.writer.emit(e.StateChanged(state="joining"))
    recording.writer.flush()


def test_close_drains_and_leaves_one_file(database: Path, ask: Ask) -> None:
    recording = Recording(database)
    recording.start()
    assert ask("PRAGMA journal_mode") == [("wal",)]
    for event in states(2000):
        recording.writer.emit(event)
    recording.writer.close()
    recording.writer.close()
    assert ask("SELECT COUNT(*) FROM events") == [(2000,)]
    assert ask("PRAGMA journal_mode") == [("delete",)]
    assert [entry.name for entry in database.parent.iterdir()] == ["runs.sqlite"]
    with pytest.raises(StoreError, match="closed"):
        recording.writer.emit(e.StateChanged(state="late"))
    recording.writer.flush()


def test_close_does_not_fail_because_of_a_reader(
    database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("flserver.store.wal.CLOSE_PATIENCE", 0.05)
    recording = Recording(database)
    recording.start()
    reader = sqlite3.connect(database)
    reader.execute("SELECT * FROM v1_runs").fetchall()
    recording.writer.emit(e.StateChanged(state="joining"))
    recording.writer.close()
    assert not recording.failures
    assert "left in WAL mode" in caplog.text
    assert reader.execute("SELECT COUNT(*) FROM v1_events").fetchall() == [(1,)]
    reader.close()


def test_close_before_start_is_nothing(database: Path) -> None:
    Recording(database).writer.close()


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened for writing"):
        Recording(tmp_path / "runs.sqlite").start()
    assert not list(tmp_path.iterdir())


def test_the_thread_has_a_name_and_is_waited_for(recording: Recording) -> None:
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "store-writer"]
    assert not thread.daemon


KILLED = """
import sys
from pathlib import Path
from flserver.store.writer import Writer
from flserver import events as e
from tests.store import story
writer = Writer(Path(sys.argv[1]), run_id=story.RUN, process_id=1)
writer.start(**story.QUIET)
for event in story.started():
    writer.emit(event)
number = 100
while True:
    number += 1
    for event in story.registered(str(number), number):
        writer.emit(event)
    if number % 20 == 0:
        writer.flush()
        print(writer.sequence, flush=True)
"""


def test_sigkill_leaves_a_readable_database_and_a_whole_chain(database: Path) -> None:
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", KILLED, str(database)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        promised = [int(process.stdout.readline()) for _ in range(10)][-1]
        os.kill(process.pid, signal.SIGKILL)
    wal = database.with_name("runs.sqlite-wal")
    before = wal.read_bytes()
    assert before
    found = Reader(database).verify_chain()
    assert found.problems == ()
    assert found.events >= promised  # what flush returned from is there
    ((clients,),) = Reader(database).query("SELECT COUNT(*) FROM v1_clients")[1]
    ((registered,),) = Reader(database).query("SELECT COUNT(*) FROM v1_events WHERE type = 'ClientRegistered'")[1]
    assert clients == registered
    assert wal.read_bytes() == before  # a reader never checkpoints
    story.write(database, states(3), process_id=2)
    assert Reader(database).verify_chain().problems == ()
    assert not wal.exists()
