"""A part of a fleet as a process of this machine."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator

from flserver.simulation.parts import END_SECONDS, FleetError, Line, Part


class ProcessPart:
    """``part`` in a process of its own, which ends with this one."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flserver.simulation.crowd"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        with contextlib.suppress(BrokenPipeError):  # it says why when it is read
            self._stdin.write(f"{part.to_line()}\n".encode())
            self._stdin.flush()

    def lines(self) -> Iterator[Line]:
        """What it says, to its end. Raises FleetError."""
        for line in self._stdout:
            if line.endswith(b"\n"):  # else it was killed while it spoke
                yield json.loads(line)
        if code := self._process.wait():
            raise FleetError(f"{self._part} has ended with exit code {code}; what it said stands above")

    def tell_to_end(self) -> None:
        with contextlib.suppress(OSError):
            self._stdin.close()

    def end(self) -> None:
        """Wait for its end."""
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Give back what it has here."""
        self._stdout.close()


def environment(without: str = "\0") -> dict[str, str]:
    """Ours with one thread for arithmetic, without the variables that begin so."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(without)}
    return {"OMP_NUM_THREADS": "1"} | kept
