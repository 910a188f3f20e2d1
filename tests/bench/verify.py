"""How long a record is verified: microseconds of the processor an event, of a record that small rounds have made.

    python -m tests.bench.verify --events 1000000 --dir FOLDER

Prints one JSON line. The whole of ``flserver verify`` but for the checkpoints: copy, schema, chain, tables, sums.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from flserver.audit.report import Report
from flserver.audit.verify import Verification
from flserver.events import Event
from flserver.store.schema import ensure_head
from flserver.store.writer import Writer
from tests.bench.record import RUN, _begin, _round

CLIENTS = 500
PER_ROUND = 5 * CLIENTS + 2  # events


def verified(events: int, directory: Path) -> dict[str, object]:
    """The figures of a record of as many ``events``, in whole rounds of ``CLIENTS`` clients."""
    with tempfile.TemporaryDirectory(dir=directory, prefix="bench-") as folder:
        db = Path(folder) / "bench.sqlite"
        write(db, max(1, events // PER_ROUND))
        return verify(db)


def write(db: Path, rounds: int) -> None:
    """A record of so many rounds at ``db``."""
    failures: list[BaseException] = []
    ensure_head(db)
    writer = Writer(db, run_id=RUN, process_id=1)
    writer.start(on_committed=lambda _: None, on_commit_seconds=lambda _: None, on_failure=failures.append)
    for event in _events(rounds):
        writer.emit(event)
    writer.close()
    if failures:
        raise failures[0]


def verify(db: Path) -> dict[str, object]:
    """The figures of the record at ``db``."""
    verification, report = Verification(db, with_checkpoints=False), Report()
    wall, processor = time.perf_counter(), time.process_time()
    for finding in verification.run():
        report.add(finding)
    processor, wall = time.process_time() - processor, time.perf_counter() - wall
    assert report.outcome == "holds", report.findings[:3]
    events = verification.facts["events"]
    return {
        "verified_events": events,
        "database_mb": round(db.stat().st_size / 1e6, 1),
        "verify_processor_seconds": round(processor, 2),
        "verify_seconds": round(wall, 2),
        "verify_us_an_event": round(processor / events * 1e6, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1),
    }


def _events(rounds: int) -> Iterator[Event]:
    yield from _begin(CLIENTS)
    for number in range(1, rounds + 1):
        yield from _round(number, CLIENTS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--dir", type=Path, default=Path())
    given = parser.parse_args()
    print(json.dumps(verified(given.events, given.dir)))
