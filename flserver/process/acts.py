"""What operators do, on record: in a server's run, and by a command that changes the database."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flserver.audit.condition import what_is_lost
from flserver.errors import Damaged
from flserver.events import OperatorActed
from flserver.events.words import OperatorAct
from flserver.observers.noted_heads import note_now
from flserver.process.signals import Sender
from flserver.settings.operator import Operator, user_called
from flserver.settings.places import Place
from flserver.store.database import Lock
from flserver.store.reader import Reader
from flserver.store.schema import Upgrade
from flserver.store.writer import Writer

NO_RUN, NO_PROCESS = "", 0  # what a command's act is of


def acted(kind: OperatorAct, detail: Mapping[str, Any], operator: Operator) -> OperatorActed:
    """An act, as an event."""
    return OperatorActed(kind=kind, detail=detail, actor=operator.actor, reason=operator.reason)


def record_act(
    db: Place,
    lock: Lock,
    kind: OperatorAct,
    detail: Mapping[str, Any],
    operator: Operator,
    audit_head: Path | None = None,
) -> None:
    """Put an act of a command on record, which has the ``lock`` of the database, and belongs to no run. The head that
    this leaves is noted in ``audit_head``.

    Raises StoreError, and Damaged where the database has lost commits.
    """
    require_whole(db, lock)
    writer = Writer(db, run_id=NO_RUN, process_id=NO_PROCESS, lock=lock)
    writer.start(
        on_committed=lambda events: None,
        on_commit_seconds=lambda seconds: None,
        on_failure=lambda error: None,
        on_head=lock.note_head,
    )
    try:
        writer.emit(acted(kind, detail, operator))
        writer.flush()
    finally:
        writer.close()
    if audit_head is not None:
        note_now(audit_head, *writer.head)


def require_whole(db: Place, lock: Lock) -> None:
    """Raises Damaged where the database has not the head that the lock's file notes: one that is written there instead
    would hide that."""
    if (lost := what_is_lost(db, Reader(db), lock.before)) is not None:
        raise Damaged(f"{lost}. Put the newer database back, with its -wal file")


def upgrade_detail(upgrade: Upgrade) -> dict[str, str]:
    """What is on record of an upgrade."""
    return {"before": upgrade.before, "after": upgrade.after, "copy": str(upgrade.copy or "")}


def who_sent(sender: Sender | None) -> Operator:
    """Who sent a signal: a user of this system, unknown where the system does not tell."""
    return Operator(actor=None if sender is None else user_called(sender.uid))


def sender_detail(sender: Sender | None) -> dict[str, int]:
    """What else is on record of who sent it."""
    return {} if sender is None else {"sender_pid": sender.pid, "sender_uid": sender.uid}
