"""Where facts go: first to the recorder, and once their transaction has committed, to those who only watch.

The recorder is critical: where it fails, ``on_failure`` stops the server. Observers are best effort: what one of them
raises is logged, and costs nobody else anything.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from flserver.events import Event

logger = logging.getLogger(__name__)


class Recorder(Protocol):
    """The part of ``store.writer.Writer`` that the bus needs."""

    def append(self, event: Event) -> None:
        """Queue an event for its transaction. Raises StoreError once the recorder has failed."""

    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything appended so far is durable. Raises StoreError where it cannot be."""


class Observer(Protocol):
    """Sees facts after they are durable, in order, on the writer's thread: it must be quick and never decides."""

    def observe(self, event: Event) -> None: ...


class Bus:
    """``emit`` a fact, ``flush`` to know that all facts so far are durable."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def emit(self, event: Event) -> None:
        self._recorder.append(event)

    def flush(self, timeout: float | None = None) -> None:
        self._recorder.flush(timeout)


def publisher(observers: Sequence[Observer]) -> Callable[[Sequence[Event]], None]:
    """The function that the recorder calls with the events of each committed transaction."""

    def publish(events: Sequence[Event]) -> None:
        for event in events:
            for observer in observers:
                try:
                    observer.observe(event)
                except Exception:
                    logger.exception("%s failed on %s", type(observer).__name__, type(event).__name__)

    return publish
