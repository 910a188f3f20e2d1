"""What a process has before its run is prepared: handed on by ``launch``, without torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flserver.events.bus import Observer
from flserver.network.admission import Admission
from flserver.network.listener import Listener
from flserver.process.signals import Signals
from flserver.process.which_run import Plan
from flserver.store.reader import Reader
from flserver.store.schema import Upgrade


@dataclass(frozen=True, kw_only=True)
class Launched:
    """The database's lock is held. ``upgrade`` is what was done to its schema, if anything; ``console`` shows events,
    ``say`` tells the operator a line."""

    plan: Plan
    reader: Reader
    upgrade: Upgrade | None
    listener: Listener
    admission: Admission
    signals: Signals
    console: Sequence[Observer]
    say: Callable[[str], None]
