"""What a process has before its run is prepared: handed on by ``launch``, without torch."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flserver.events.bus import Observer
from flserver.files import group_id
from flserver.network.admission import Admission
from flserver.network.listener import Listener
from flserver.process.basis import Basis
from flserver.process.signals import Signals
from flserver.process.which_run import Plan
from flserver.store.database import Lock
from flserver.store.reader import Reader
from flserver.store.schema import Upgrade, ensure_head

if TYPE_CHECKING:
    from flserver.process.ray.left import Staying


@dataclass(frozen=True, kw_only=True)
class Launched:
    """Nothing is on disk yet: ``lock`` is held, and ``reader`` reads the database as it will be, until ``looking`` is
    closed. ``console`` shows events, ``say`` tells the operator a line. ``upgrade`` is what was done to the schema, if
    anything; ``left`` are the nodes of an earlier server of the run, if there may be any."""

    plan: Plan
    basis: Basis
    lock: Lock
    looking: ExitStack
    reader: Reader
    upgrade: Upgrade | None = None
    listener: Listener
    left: "Staying | None" = None
    admission: Admission
    signals: Signals
    console: Sequence[Observer]
    say: Callable[[str], None]

    def begin(self) -> "Launched":
        """Make the database, or bring it to the newest schema: all that a start needs has been found good.

        Raises UsageError where it cannot be written after all.
        """
        store = self.plan.settings.store
        self.lock.stays = True
        self.looking.close()
        upgrade = ensure_head(store.db, group=group_id(store.group), patience=store.db_patience, lock=self.lock)
        return replace(self, reader=Reader(store.db), upgrade=upgrade)
