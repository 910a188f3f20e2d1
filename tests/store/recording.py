"""A writer whose callbacks are kept, for the tests of what it does and of who waits for it."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from flserver import events as e
from flserver.events import Event
from flserver.store.writer import Writer
from tests.patience import PATIENCE
from tests.store import story


class Recording:
    """A writer whose callbacks are kept, and can be made to wait."""

    def __init__(self, path: Path) -> None:
        self.batches: list[list[Event]] = []
        self.failures: list[BaseException] = []
        self.seconds: list[float] = []
        self.seen = threading.Condition()
        self.gate = threading.Event()
        self.gate.set()
        self.writer = Writer(path, run_id=story.RUN, process_id=1)

    def start(self) -> None:
        self.writer.start(
            on_committed=self._committed, on_commit_seconds=self.seconds.append, on_failure=self.failures.append
        )

    def _committed(self, events: Sequence[Event]) -> None:
        with self.seen:
            self.batches.append(list(events))
            self.seen.notify_all()
        assert self.gate.wait(PATIENCE)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.seen:
            assert self.seen.wait_for(condition, PATIENCE)


def states(count: int) -> list[Event]:
    return [e.StateChanged(state=str(number)) for number in range(count)]
