"""How long a test waits, where it has to wait at all. No verdict hangs on seconds that a busy machine may take.

What a test wants to happen, it waits for: for an event, a line, a row. Where something must be quick, it counts or asks
for the processor's time.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

from flserver.clock import Deadline

PATIENCE = 300.0  # seconds: for what comes at once when all is well, so that only what hangs takes as long
DEADLINE = 8.0  # seconds: of the server's, where a test lets one pass; what has to come before it takes milliseconds

T = TypeVar("T")


def eventually(holds: Callable[[], T], otherwise: Callable[[], object] = str, pause: float = 0.02) -> T:
    """What ``holds`` gives as soon as that is true, for what gives no sign when it happens.

    Raises AssertionError with what ``otherwise`` gives where it never is.
    """
    deadline, waiting = Deadline.after(PATIENCE), threading.Event()
    while not (found := holds()):
        assert not deadline.passed, otherwise()
        waiting.wait(pause)
    return found
