"""Whether a server could go on with a database: its file, its write-ahead log, its chain, the checkpoints it needs."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from flserver.errors import CheckpointError
from flserver.models.digests import check_file, located
from flserver.settings.recorded import checkpoints_of
from flserver.store.lock import Note, read_note
from flserver.store.reader import Reader
from flserver.store.wal import read_frames

LEAST_ROOM = 1 << 20  # bytes that a start itself writes, as a rule


def problems(path: Path) -> Iterator[str]:
    """What is wrong with the database at ``path``, a line each. Raises UsageError where it cannot be read at all."""
    yield from _disk(path)
    frames = read_frames(path)
    if frames.lost:
        yield (
            f"{path}-wal is damaged, or a power loss cut it: {frames.lost} frames after {frames.sound} sound ones "
            f"cannot be read, with the ends of {frames.committed} transactions"
        )
    reader = Reader(path)
    if (damage := reader.damage()) is not None:
        yield f"{path} is damaged: {damage}"
    if (lost := what_is_lost(path, reader, read_note(path))) is not None:
        yield lost
    broken = reader.verify_chain().problems
    if broken:
        yield f"the chain of events is broken: {broken[0]} (flserver verify says more)"
    for run in reader.runs():
        last = reader.last_committed(run["run_id"])
        if run["status"] == "completed" or last is None:
            continue
        try:
            check_file(located(checkpoints_of(run, None, path), last["checkpoint"]), last["model_digest"])
        except CheckpointError as error:
            yield f"run {run['name']} cannot go on from round {last['round']}: {error}"


def what_is_lost(path: Path, reader: Reader, before: Note | None) -> str | None:
    """What to say where the database has not the head that was durable ``before``; None where it has, or nothing is
    known of that."""
    head = reader.head()
    if before is None or not before.sequence or head is None:
        return None
    found = reader.event(before.sequence)
    if found is not None and found.digest() == before.digest:
        return None
    now = f"its last one is {head.seq}" if found is None else "another one has that number"
    return (
        f"{path} has lost commits: event {before.sequence} was durable, and {now}. Its -wal file is damaged or did not "
        "come along, or an older copy is in its place"
    )


def _disk(path: Path) -> Iterator[str]:
    folder = path.resolve().parent
    for place in (path, folder):
        if not os.access(place, os.W_OK):
            yield f"{place} cannot be written"
    if (free := shutil.disk_usage(folder).free) < LEAST_ROOM:
        yield f"{folder} has {free:,} bytes free"
