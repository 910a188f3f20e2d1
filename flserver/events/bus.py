"""Who is told of facts: first the recorder, and once their transaction has committed, those who only watch.

The recorder is critical: where it fails, the server stops. Observers are best effort: what one of them raises is
logged, and costs nobody else anything.
"""

import logging
from collections.abc import Sequence
from typing import Protocol

from flserver.events.event import Event

logger = logging.getLogger(__name__)


class Recorder(Protocol):
    """Writes facts down: ``store.writer.Writer``. Both calls raise StoreError once it has failed.

    What waits for its transaction is bounded, so ``emit`` may wait for room: never call it with a lock held.
    """

    @property
    def crowded(self) -> bool:
        """Whether who does not go ``first`` would have to wait."""

    def emit(self, event: Event, *, first: bool = True, payload: str | None = None) -> None:
        """Queue a fact for its transaction, once there is room. ``first`` is what rounds rest on: the rest leaves most
        of the room to that, and waits while there is more than its own part of it. ``payload`` is the event as
        ``store.payloads`` writes it, where it is at hand."""

    def flush(self) -> None:
        """Wait until everything emitted so far is durable, and the observers have seen it."""


class Observer(Protocol):
    """Sees facts after they are durable, in order, on the writer's thread: it must be quick and never decides."""

    def observe(self, event: Event) -> None: ...


class Bus:
    """Passes the facts of each committed transaction on to those who watch."""

    def __init__(self) -> None:
        self._observers: tuple[Observer, ...] = ()

    def subscribe(self, *observers: Observer) -> None:
        """Let them see what comes from here on, after those who do already.

        The tuple is replaced as a whole: ``publish`` may be walking it.
        """
        self._observers += observers

    def publish(self, events: Sequence[Event]) -> None:
        """Called by the recorder, on its thread."""
        for event in events:
            for observer in self._observers:
                try:
                    observer.observe(event)
                except Exception:
                    logger.exception("%s failed on %s", type(observer).__name__, type(event).__name__)
