"""Other users of the server's machine, and who reads what it leaves, in a terminal and in a spreadsheet."""

import csv
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.e2e.harness import TESTS, ServerProcess
from tests.e2e.hostile.costs import HOLD_LOCK, HOLD_TRANSACTION, harmless, holding
from tests.patience import eventually
from tests.soak.ledger import Ledger

OPEN_TO_MORE = 0o027  # what others may do, and what its group may beyond reading
LOCKED, FREE = "is locked by another program", "is free again"


def lock(ledger: Ledger, which: int, meanwhile: Callable[[], object]) -> None:
    """Another program's lock on the database, held until the server has said that it waits: ``meanwhile`` gives it
    something to write. Raises AssertionError where it does not wait, or does not go on afterwards."""
    server = ledger.server
    index = f"{server.db}-shm"
    locks = {
        "the writer's": (HOLD_LOCK, index, 120, 1),
        "all of the index": (HOLD_LOCK, index, 120, 8),
        "a transaction": (HOLD_TRANSACTION, server.db),
    }
    what = [*locks][which % len(locks)]
    code, *arguments = locks[what]
    locked, free = said(server, LOCKED), said(server, FREE)
    with holding(str(code), *arguments):
        meanwhile()
        eventually(lambda: said(server, LOCKED) > locked, lambda: f"nothing waits for {what} lock")
        ledger.note("locks", f"{what}: waited for")
    eventually(lambda: said(server, FREE) > free, lambda: f"{what} lock is waited for for ever")


def said(server: ServerProcess, what: str) -> int:
    return sum(what in line for line in server.lines)


def judge_files(db: Path) -> list[str]:
    """A line for each file of the database at ``db``, and of its checkpoints, that is open to more than its group to
    read."""
    places = [*db.parent.glob(f"{db.name}*"), *db.with_name(f"{db.name}.checkpoints").rglob("*")]
    modes = {place.name: stat.S_IMODE(place.lstat().st_mode) for place in places}
    return [f"{name} is open to more: {mode:o}" for name, mode in modes.items() if mode & OPEN_TO_MORE]


def judge_what_is_read(server: ServerProcess) -> list[str]:
    """Of a server that has ended: in its log is nothing that a terminal obeys, and in what is taken out of its record
    nothing that a spreadsheet calculates."""
    found = [] if harmless(server.log) else ["a terminal would obey what is in the log"]
    asked = ("query", "SELECT DISTINCT client_id FROM v1_clients", "--format", "csv")
    command = [sys.executable, "-m", "flserver", "--db", str(server.db), *asked]
    rows = csv.reader(subprocess.check_output(command, cwd=TESTS.parent, text=True).splitlines())
    return found + [f"a spreadsheet would calculate {c}" for row in rows for c in row if c.startswith(tuple("=+-@"))]
