"""How a node's process ended, as far as the server that started it can tell."""

import signal
import subprocess
import threading

from flserver.ingest.lines import ENDED

LOOK_SECONDS = 0.2  # that a process has to end behind its line, of which the system closes its end just before


class Ending:
    """Of one process. It is looked at once, by whoever comes first, and all others are told the same: what has lost no
    more than its line is killed afterwards, and that is not how it ended. For many threads."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._look = threading.Lock()  # of who looks, for LOOK_SECONDS at most; guards the next
        self._how: str | None = None

    def how(self) -> str:
        """By which signal, or with which exit code; only that it did, where it has not within ``LOOK_SECONDS``."""
        with self._look:
            if self._how is None:
                self._how = self._found()
            return self._how

    def explain(self, why: str) -> str:
        """Why a node is gone, with more than that its process ended."""
        return self.how() if why == ENDED else why

    def _found(self) -> str:
        try:
            code = self._process.wait(LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            return ENDED
        return f"its process was killed by {_name(-code)}" if code < 0 else f"{ENDED} with exit code {code}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of those for real time have no name
        return f"signal {number}"
