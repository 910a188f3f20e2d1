"""Servers that break a promise on purpose: a sweep that does not see it proves nothing.

Each patches the process that calls it.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

from flserver.models import checkpoint
from flserver.models.checkpoint import CheckpointStore, Written
from flserver.store.writer import Writer


def row_before_file() -> None:
    """A round is committed, and then its checkpoint is written."""
    from flserver.models.checkpoint_format import serialize
    from flserver.models.digests import sha256_of

    write, later = CheckpointStore.write, _once_durable()

    def too_late(store: Any, round: int, model: Any, strategy: Any) -> Written:
        pieces = list(serialize(model, strategy))
        digest = sha256_of(pieces)
        name = f"{store._run_id}/round-{round:06d}-{digest.removeprefix('sha256:')[:16]}.safetensors"
        later.append(lambda: write(store, round, model, strategy))
        return Written(name, digest, sum(map(len, pieces)), 0.0)

    CheckpointStore.write = too_late  # type: ignore[method-assign]


def rename_after_row() -> None:
    """A checkpoint is written, its round is committed, and then it gets its name."""
    write, later, rename = CheckpointStore.write, _once_durable(), os.rename

    def unnamed(*arguments: Any) -> Written:
        os.rename = lambda *names: later.append(lambda: rename(*names))  # type: ignore[assignment]
        try:
            return write(*arguments)
        finally:
            os.rename = rename

    CheckpointStore.write = unnamed  # type: ignore[method-assign]


def answer_before_row() -> None:
    """Nobody waits for a transaction."""
    Writer.flush = lambda writer: None  # type: ignore[method-assign]


def file_never_synced() -> None:
    """A checkpoint's bytes are left to the system."""
    fsync, synced = os.fsync, checkpoint.sync_folder

    def only_folders(folder: Any) -> None:
        os.fsync = fsync
        synced(folder)
        os.fsync = lambda descriptor: None

    os.fsync = lambda descriptor: None
    checkpoint.sync_folder = only_folders


def folder_never_synced() -> None:
    """A checkpoint's name is left to the system."""
    checkpoint.sync_folder = lambda folder: None


def batch_not_looked_up() -> None:
    """What may have been committed when the session was lost is committed again."""
    from flserver.store.postgres.recording import PostgresRecording

    PostgresRecording._unsure = property(lambda own: None, lambda own, written: None)  # type: ignore[assignment]


def epoch_not_checked() -> None:
    """A server that has its lock again goes on, whoever had it meanwhile."""
    from flserver.store.postgres.lock import PostgresLock

    PostgresLock.require_mine = lambda lock, connection: None  # type: ignore[method-assign]


def loss_not_noticed() -> None:
    """What only a node had that is gone counts all the same."""
    from flserver.ingest.held import Held

    lose_all = Held.lose_all

    def lose_what_is_not_folded(held: Held, again: Any) -> Any:
        held._held.clear()
        return lose_all(held, again)

    Held.lose_all = lose_what_is_not_folded  # type: ignore[method-assign]


def kept_not_added() -> None:
    """What such a node had counts where it is kept, but is not added from there."""
    from flserver.ingest.desk import Desk

    Desk.add_again = lambda desk, *update: True  # type: ignore[method-assign]


def _once_durable() -> list[Callable[[], object]]:
    """What is put into it is done after the next flush, of whichever thread."""
    later: list[Callable[[], object]] = []
    lock, flush = threading.Lock(), Writer.flush

    def flush_then_do(writer: Writer) -> None:
        flush(writer)
        with lock:
            while later:
                later.pop(0)()

    Writer.flush = flush_then_do  # type: ignore[method-assign]
    return later
