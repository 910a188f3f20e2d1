"""A record that a test can look into."""

import threading
from collections.abc import Callable
from typing import Any, Never, TypeVar

from flserver import events as e
from flserver.errors import StoreError
from tests.patience import PATIENCE

Kind = TypeVar("Kind", bound=e.Event)


class RecordingRecorder:
    """Keeps what was emitted, and how much of it had been asked to be durable.

    ``before`` has what is called, on the emitter's thread, before an event of a kind is kept: to look around, to make
    it wait, or to raise. ``first`` says of each event whether it went first, ``full`` that others would wait. After a
    StoreError nothing is kept any more, as with a writer whose disk is full; what was emitted in vain is ``lost``.
    """

    def __init__(self) -> None:
        self.events: list[e.Event] = []
        self.lost: list[e.Event] = []
        self.durable = 0
        self.full = False
        self.first: list[bool] = []
        self.before: dict[type[e.Event], Callable[[], object]] = {}
        self._failure: StoreError | None = None
        self._more = threading.Condition()

    @property
    def crowded(self) -> bool:
        return self.full

    def emit(self, event: e.Event, *, first: bool = True, payload: str | None = None) -> None:
        try:
            if self._failure is not None:
                raise self._failure
            self.before.get(type(event), lambda: None)()
        except BaseException as error:
            self.lost.append(event)
            if isinstance(error, StoreError):
                self._failure = error
            raise
        with self._more:
            self.events.append(event)
            self.first.append(first)
            self._more.notify_all()

    def flush(self) -> None:
        if self._failure is not None:
            raise self._failure
        self.durable = len(self.events)

    def of(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in self.events if type(event) is kind]

    def wait_for(self, kind: type[Kind], count: int = 1) -> list[Kind]:
        """All of one kind, once there are ``count`` of them."""
        with self._more:
            assert self._more.wait_for(lambda: len(self.of(kind)) >= count, PATIENCE), self.events
        return self.of(kind)


def raising(error: BaseException) -> Callable[..., Any]:
    """A function that does nothing else: for ``before``, or in the place of one of ours."""

    def raise_it(*_: object, **__: object) -> Never:
        raise error

    return raise_it
