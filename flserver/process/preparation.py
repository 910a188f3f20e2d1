"""What a run's start needs torch for, done on a thread of its own, while trainers register."""

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from flserver.process.basis import Basis
from flserver.process.resources import settle_garbage
from flserver.process.which_run import Plan

if TYPE_CHECKING:
    from flserver.process.prepare import Prepared


class Preparation:
    """``prepare`` at work. It can be waited for as for a socket that something is to be read from."""

    def __init__(self, plan: Plan, basis: Basis, say: Callable[[str], None]) -> None:
        self._plan, self._basis, self._say = plan, basis, say
        self._prepared: Prepared | None = None
        self._error: BaseException | None = None
        self._end, self._running = os.pipe()  # nothing is written: that the second is closed can be seen at the first
        self._thread = threading.Thread(target=self._run, name="model")

    def start(self) -> None:
        """Begin on the thread."""
        self._thread.start()

    def fileno(self) -> int:
        """A descriptor that can be read from when it is done."""
        return self._end

    @property
    def done(self) -> bool:
        """Whether ``result`` is there."""
        return self._prepared is not None or self._error is not None

    def result(self) -> "Prepared":
        """Wait for what was prepared. Raises what kept it from coming about, as ``prepare`` does."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._prepared is not None
        return self._prepared

    def close(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()
        os.close(self._end)

    def _run(self) -> None:
        try:
            from flserver.aggregation import kernel
            from flserver.process.prepare import prepare  # torch: 2 s, or 4 with torchvision

            prepared = prepare(self._plan, self._basis, self._say)
            kernel.load()  # now, and not in the first round
            settle_garbage()
            self._prepared = prepared
        except BaseException as error:
            self._error = error
        finally:
            os.close(self._running)
