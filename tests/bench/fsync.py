"""How often a server makes something durable: its calls of fsync and fdatasync.

A library of ours is preloaded and counts them. ``strace`` would too, but the rounds then take five times as long, and
what is committed together depends on how long they take.
"""

import shutil
import subprocess
from pathlib import Path

from tests.bench.driver import BenchError, Shape, all_accepted, folder_in, run, server_command

SOURCE = Path(__file__).with_name("count_syncs.c")
ROUNDS = 30
LONGEST = 0.2  # seconds of a round for which the figure is meant: nothing waits longer for its commit


def cannot_count() -> str | None:
    """Why the calls cannot be counted on this machine; None where they can."""
    return None if shutil.which("cc") else "no C compiler (cc)"


def syncs_a_round(clients: int, size: str, directory: Path, rounds: int = ROUNDS) -> tuple[float, float]:
    """How many calls a round takes, and how many seconds. Raises BenchError."""
    shape = Shape(clients, size, rounds)
    with folder_in(directory) as folder:
        library, log = folder / "count.so", folder / "syncs"
        made = subprocess.run(
            ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"], capture_output=True, text=True
        )
        if made.returncode:
            raise BenchError(f"what counts cannot be compiled: {made.stderr}")
        preloaded = ["env", f"LD_PRELOAD={library.resolve()}", f"COUNT_SYNCS_IN={log.resolve()}"]
        done = run([*preloaded, *server_command(shape, folder)], shape)
        all_accepted(folder, shape)
        if not log.exists():
            raise BenchError("nothing was counted: the library was not loaded")
        calls = [float(moment) for moment in log.read_text().split()]
    first, last = done.moments[0], done.moments[-2]  # the last round also ends the run
    return sum(first < at <= last for at in calls) / (rounds - 1), done.seconds
