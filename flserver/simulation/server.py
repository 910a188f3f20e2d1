"""A server for a fleet, where there is none: started with what the fleet needs, and ended with it."""

import os
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

from flserver.settings.places import Place
from flserver.simulation.parts import END_SECONDS, FleetError
from flserver.simulation.processes import environment
from flserver.simulation.script import Member

START_SECONDS: Final = 300.0  # until a server listens
LAST_LINES: Final = 30  # of a server's log, which are shown where it fails


class Server:
    """A server of our own on loopback, in a process of its own, that listens when this is made. It ends with this
    process, also where that is killed."""

    def __init__(self, options: Sequence[str]) -> None:
        """Raises FleetError where it ends before it listens."""
        self._process = subprocess.Popen(
            [*_tied(), sys.executable, "-m", "flserver", *options],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment("FLSERVER_"),
            start_new_session=True,  # Ctrl-C is ours: the server is told when the trainers are
        )
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._listens = threading.Event()
        self.port = 0
        self._reader = threading.Thread(target=self._read, name="server-log")
        self._reader.start()
        try:
            self._listens.wait(START_SECONDS)
            if not self.port:
                raise FleetError(f"the server does not listen:\n{self.log}")
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.append(line)
            if not self.port and (found := re.search(r"listening for trainers on .*:(\d+)$", line)):
                self.port = int(found[1])
                self._listens.set()
        self._listens.set()

    @property
    def log(self) -> str:
        """Its last lines."""
        return "".join(self._lines)

    def end(self) -> int:
        """Wait until it ends by itself, and return its exit code. Raises FleetError where it does not."""
        try:
            code = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise FleetError(f"the server goes on after its last round:\n{self.log}") from error
        self._reader.join()
        return code

    def close(self) -> None:
        """Stop it where it has not ended, and wait for it."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()


def _tied() -> list[str]:
    """What a command begins with that is to end with this process."""
    return [sys.executable, "-m", "flserver.simulation.tied", str(os.getpid())]


def processes_that_serve(options: Sequence[str]) -> int:
    """How many processes of a server with these options trainers connect to."""
    for place, option in enumerate(options):
        name, _, value = option.partition("=")
        if name == "--ingest":
            value = value or next(iter(options[place + 1 :]), "")
            return max(1, int(value)) if value.isdecimal() else 1  # else the server says what is wrong with it
    return 1


def server_options(
    db: Place, model: str, rounds: int, seed: int, members: Sequence[Member], more: Sequence[str]
) -> list[str]:
    """Those of a server for these trainers alone: a round begins when all are there, and each has its connections."""
    joining = sum(member.takes_part for member in members)
    connections = str(max(4096, 4 * len(members)))
    given = {
        "--db": str(db),
        "--model": model,
        "--num-rounds": str(rounds),
        "--seed": str(seed),
        "--server-port": "0",
        "--metrics-port": "0",
        "--time-to-wait": "0",
        "--min-clients": str(joining),
        "--max-connections": connections,
        "--max-connections-per-address": connections,
        "--strangers-per-minute": connections,  # uploads that break off are few, and have their rows
        "--stop-grace": "0",
    }
    return [*(word for pair in given.items() for word in pair), *more]
