"""How much memory a process has: at rest, and as time goes by."""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.answers import FIRST_ID, registration
from tests.bench.driver import ROUND_0, Child, Shape, folder_in, server_command
from tests.bench.wire import receive_exactly, receive_length, send_frame

PAUSE = 0.1  # seconds between two looks
QUIET = 10  # looks in a row at which a process must have done nothing, to be at rest
LOOKS = 1200  # after which it is not waited for any more


def resident(pid: int) -> int:
    """Bytes that a process has in memory; 0 where it is gone."""
    try:
        found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 1024 * int(found[1]) if found else 0


def settled(pid: int) -> int:
    """Bytes of a process that has come to rest: it uses no processor any more. Raises TimeoutError."""
    quiet, before = 0, None
    for _ in range(LOOKS):
        time.sleep(PAUSE)
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        quiet, before = (quiet + 1 if ticks == before else 0), ticks
        if quiet == QUIET:
            return resident(pid)
    raise TimeoutError("the server does not come to rest")


@contextlib.contextmanager
def waiting_trainer(port: int) -> Iterator[None]:
    """A trainer that registers and waits; the server now has every reason to load its model."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        send_frame(connection, registration(FIRST_ID))
        receive_exactly(connection, memoryview(bytearray(receive_length(connection))))
        yield


def idle_memory(size: str, directory: Path) -> int:
    """Bytes of a server that listens, has its model, and waits for more trainers. Raises BenchError."""
    with folder_in(directory) as folder:
        child = Child(server_command(Shape(2, size, 1), folder))
        try:
            with waiting_trainer(child.port()):
                child.said(ROUND_0)
                found = settled(child.pid)
                child.stop()
        finally:
            child.close()
    return found


class Sampler:
    """The memory of a process while it is watched: ``samples`` are pairs of a moment (seconds, monotonic) and bytes."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, int]] = []

    @contextlib.contextmanager
    def __call__(self, pid: int) -> Iterator[None]:
        over = threading.Event()

        def look() -> None:
            while not over.is_set():
                self.samples.append((time.monotonic(), resident(pid)))
                over.wait(PAUSE)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def mean(self, begin: float, end: float) -> float:
        """The mean number of bytes from one moment to another; where nobody looked then, at the next look before."""
        found = [size for at, size in self.samples if begin <= at <= end]
        return sum(found) / len(found) if found else max(one for one in self.samples if one[0] <= end)[1]
