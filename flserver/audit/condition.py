"""Whether a server could go on with a database: its file, its write-ahead log, its chain, the checkpoints it needs."""

from collections.abc import Iterator
from pathlib import Path

from flserver.errors import CheckpointError, Damaged
from flserver.models.digests import check_file, located
from flserver.settings.places import Place
from flserver.settings.recorded import checkpoints_of
from flserver.store.database import at
from flserver.store.lock import Note
from flserver.store.reader import Reader
from flserver.store.wal import read_frames


def problems(place: Place) -> Iterator[str]:
    """What is wrong with the database at ``place``, a line each. Raises UsageError where it cannot be read at all."""
    frames = read_frames(place) if isinstance(place, Path) else None
    if frames is not None and frames.lost:
        yield (
            f"{place}-wal is damaged, or a power loss cut it: {frames.lost} frames after {frames.sound} sound ones "
            f"cannot be read, with the ends of {frames.committed} transactions"
        )
    try:
        yield from _record(place, Reader(place))
    except Damaged as error:
        yield str(error)


def _record(place: Place, reader: Reader) -> Iterator[str]:
    if (damage := reader.damage()) is not None:
        yield f"{place} is damaged: {damage}"
    if (lost := what_is_lost(place, reader, at(place).read_note())) is not None:
        yield lost
    broken = reader.verify_chain().problems
    if broken:
        yield f"the chain of events is broken: {broken[0]} (flserver verify says more)"
    for run in reader.runs():
        last = reader.last_committed(run["run_id"])
        if run["status"] == "completed" or last is None:
            continue
        try:
            check_file(located(checkpoints_of(run, None, place), last["checkpoint"]), last["model_digest"])
        except CheckpointError as error:
            yield f"run {run['name']} cannot go on from round {last['round']}: {error}"


def what_is_lost(place: Place, reader: Reader, before: Note | None) -> str | None:
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
        f"{place} lacks commits: event {before.sequence} was durable, and {now}. Its -wal file is damaged or did "
        "not come along, or an older copy is in its place"
    )
