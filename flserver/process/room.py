"""Whether the disks have room for what a run will write."""

import logging
from collections.abc import Callable
from pathlib import Path

from flserver.errors import UsageError
from flserver.models.checkpoint_format import estimate
from flserver.models.stored import free_space
from flserver.network.memory import disk_reserve
from flserver.rounds.model import CurrentModel
from flserver.settings import ServerSettings

RECORD_BYTES = 6000  # that a client adds in a round: a connection, messages, a decision, measures

logger = logging.getLogger(__name__)


def check_room(settings: ServerSettings, model: CurrentModel, say: Callable[[str], None]) -> None:
    """Tell what all rounds after ``model``'s will take. Raises UsageError where a disk has not as much; how much an
    object store has nobody can tell."""
    store, rounds = settings.store, settings.rounds.num_rounds
    to_come = max(rounds - max(model.round, 0), 0)
    clients, for_them = settings.rounds.min_clients, f"{to_come} round{'s' * (to_come != 1)} to come"
    checkpoints, updates = estimate(model.state, to_come, store.keep_checkpoints), ""
    needed, place = checkpoints, store.checkpoint_dir
    free = free_space(place) if isinstance(place, Path) else None
    if store.keep_updates:
        staying = min(to_come, store.keep_updates_rounds + 1) if store.keep_updates_rounds else to_come
        kept = estimate(model.state, 0, 0) * staying * clients
        updates, needed = f", {_size(kept)} for the updates of {clients} client{'s' * (clients > 1)}", needed + kept
    where = f"in {place}" if free is None else f"{_size(free)} free at {place}"
    say(f"checkpoints: about {_size(checkpoints)} for {for_them}{updates}, {where}")
    record = f"record: about {_size(RECORD_BYTES * to_come * clients)} for them with {clients} client"
    beside = f", {_size(free_space(store.db.parent))} free beside {store.db}" if isinstance(store.db, Path) else ""
    say(f"{record}{'s' * (clients > 1)}{beside}")
    if free is not None and needed > free:
        with_them, or_these = (" with the updates", " or --keep-updates-rounds") if store.keep_updates else ("", "")
        raise UsageError(
            f"the checkpoints of {rounds} rounds need about {_size(needed)}{with_them}, but {place} has "
            f"{_size(free)} free. Free some, choose another --checkpoint-dir, or set --keep-checkpoints{or_these}"
        )
    if store.spool_dir != place:
        _check_spool(settings, estimate(model.state, 0, 0), say)


def _check_spool(settings: ServerSettings, update: int, say: Callable[[str], None]) -> None:
    """Whether updates of ``update`` bytes can go to the disk at all where memory has no room for them. Most are folded
    as they arrive and never do, so that how many there will be is nothing to ask for."""
    folder, reserve = settings.store.spool_dir, disk_reserve(update)
    free, all_of_them = free_space(folder), settings.rounds.min_clients * update
    say(f"updates beyond --receive-memory: {_size(free)} free at {folder}")
    if free < reserve:
        line = f"{folder} has {_size(free)} free, and updates go there only where {_size(reserve)} stay free"
        if all_of_them > settings.network.receive_memory:
            raise UsageError(
                f"--receive-memory is too small for a round's updates, about {_size(all_of_them)}, and {line}. Free "
                "some, choose another --spool-dir, or set a larger --receive-memory"
            )
        logger.warning("%s: an update that memory has no room for will be refused", line)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
