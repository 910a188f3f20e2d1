"""What metrics say of events that go on record, and the record."""

from collections.abc import Sequence
from pathlib import Path

from flserver import events as e
from flserver.events.bus import Bus
from flserver.observers.metrics import Metrics
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from flserver.store.writer import Writer


def record(tmp_path: Path, recorded: Sequence[e.Event]) -> tuple[Reader, Metrics]:
    """The events in a database, and what observed them there."""
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    metrics = Metrics({})
    failures: list[BaseException] = []
    bus = Bus()
    bus.subscribe(metrics)
    writer = Writer(path, run_id="r1", process_id=1)
    writer.start(on_committed=bus.publish, on_commit_seconds=lambda seconds: None, on_failure=failures.append)
    for event in recorded:
        writer.emit(event)
    writer.flush()
    writer.close()
    assert failures == []
    return Reader(path), metrics
