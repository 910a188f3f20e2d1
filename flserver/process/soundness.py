"""Whether a run can go on from its record: what is damaged or lost is said, with the way that is left."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from flserver.audit.condition import what_is_lost
from flserver.errors import CheckpointError, Damaged
from flserver.models.digests import check_file, located
from flserver.process.resume_command import go_back_command
from flserver.process.which_run import Plan
from flserver.settings.places import Place
from flserver.store.lock import Note
from flserver.store.reader import Reader, Row
from flserver.text import printable

logger = logging.getLogger(__name__)


def check_record(plan: Plan, reader: Reader, before: Note | None) -> None:
    """Look whether the database is as it was left, ``before`` being what the lock's file says of that.

    Raises Damaged where the run of ``plan`` cannot go on with it. A new run can where commits are lost: that is warned
    of.
    """
    db, goes_on = plan.settings.store.db, plan.settings.store.resume
    if plan.resumed is None and plan.parent is None:
        lost = what_is_lost(db, reader, before)
        if lost is not None and goes_on:
            raise Damaged(f"{lost}. Put the newer database back, with its -wal file")
        _warn(lost)
        return
    if (damage := reader.damage()) is not None:
        raise Damaged(
            f"{db} is damaged: {damage}. Put a copy of it back, or begin a new run with the newest file in its folder "
            "of checkpoints (--initial-weights FILE.safetensors)"
        )
    lost = what_is_lost(db, reader, before)
    if plan.resumed is None:
        _warn(lost)
        return
    committed = reader.committed_rounds(plan.run_id)
    if lost is not None:
        raise Damaged(f"{lost}. Put the newer database back, with its -wal file{_way_back(plan, committed)}")
    if committed:
        with or_go_back(plan, committed[:-1]):
            _check_last(db, reader, committed[-1])


def _warn(lost: str | None) -> None:
    if lost is not None:
        logger.warning("%s", lost)


def _check_last(db: Place, reader: Reader, committed: Row) -> None:
    """Raises Damaged where the row of the last committed round is not what its event says."""
    payload = reader.payload(committed["event_seq"])
    if payload is None:
        return
    event = json.loads(payload)
    for key in ("round", "attempt", "model_digest"):
        now, was = committed[key], event.get(key)
        if now != was:
            where = f"{key} of round {committed['round']}"
            said = f"{printable(str(now))}, and {printable(str(was))} in the chain of events"
            raise Damaged(f"{db}: {where} is {said}")


@contextmanager
def or_go_back(plan: Plan, committed: Sequence[Row]) -> Iterator[None]:
    """Where the block finds something damaged, add to what it says the newest of the rounds ``committed`` from which a
    child can begin."""
    try:
        yield
    except (CheckpointError, Damaged) as error:
        back = "; put a sound copy of the file back" if isinstance(error, CheckpointError) else ""
        raise type(error)(f"{error}{back}{_way_back(plan, committed)}") from error


def _way_back(plan: Plan, committed: Sequence[Row]) -> str:
    if plan.resumed is None:
        return ""
    store = plan.settings.store
    for row in reversed(committed):
        with suppress(CheckpointError):
            if row["checkpoint_deleted_at"] is None:
                check_file(located(store.checkpoint_dir, row["checkpoint"]), row["model_digest"])
                return (
                    f"; or begin a run of its own at round {row['round']}, the newest whose checkpoint is sound: "
                    f"{go_back_command(store.db, plan.ref, row['round'])}"
                )
    return "; no other round's checkpoint is there and sound"
