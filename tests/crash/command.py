"""``ops/crash-sweep`` as a process of its own: what it forks servers from has one thread and nothing of a test's. The
forker, from which it is forked, has not more."""

import _sqlite3
import ctypes
import json
import os
from pathlib import Path
from typing import Any

from tests import warm

ROOT = Path(__file__).parents[2]


def why_not() -> str | None:
    """Why operations cannot be watched here; None where they can."""
    if not Path("/proc/self/fd").is_dir():
        return "there is no /proc, which tells what is open"
    if not hasattr(ctypes.CDLL(_sqlite3.__file__), "sqlite3_vfs_find"):
        return "Python's SQLite does not show its functions"
    return None


def run(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """The exit code, the figures, and what does not hold."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("FLSERVER_", "FLCLIENT_"))}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = warm.run(["-m", "tests.crash", *arguments], cwd=ROOT, env=environment)
    assert done.stdout, f"it ended with {done.returncode} and without figures: {done.stderr}"
    return done.returncode, json.loads(done.stdout), done.stderr
