"""Whether a server could go on with a database: its file, its write-ahead log, its chain, the checkpoints it needs."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flserver.errors import CheckpointError, Damaged
from flserver.models.digests import check_file, located
from flserver.settings.recorded import checkpoints_of
from flserver.store.lock import Note, read_note
from flserver.store.reader import Reader
from flserver.store.wal import read_frames


def problems(path: Path) -> Iterator[str]:
    """What is wrong with the database at ``path``, a line each. Raises UsageError where it cannot be read at all."""
    frames = read_frames(path)
    if frames.lost:
        yield (
            f"{path}-wal is damaged, or a power loss cut it: {frames.lost} frames after {frames.sound} sound ones "
            f"cannot be read, with the ends of {frames.committed} transactions"
        )
    try:
        yield from _record(path, Reader(path))
    except Damaged as error:
        yield str(error)


def _record(path: Path, reader: Reader) -> Iterator[str]:
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
    if before is None or not before.sequence:
        return None
    found, head = reader.event(before.sequence), reader.head()
    if found is not None and found.digest() == before.digest:
        return None
    last = "there is none now" if head is None else f"its last one is {head.seq}"
    now = last if found is None else "another one has that number"
    return (
        f"{path} has lost commits: event {before.sequence} was durable, and {now}. Its -wal file is damaged or did not "
        "come along, or an older copy is in its place"
    )


def room(path: Path) -> dict[str, Any]:
    """Whether the database at ``path`` could be written here, and how much room there is beside it."""
    folder = path.resolve().parent
    writable = all(os.access(place, os.W_OK) for place in (path, folder))
    return {"writable": writable, "bytes_free": shutil.disk_usage(folder).free}
