"""Somebody who owns nothing, and a place that he can reach."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.patience import PATIENCE

# Everything is imported before the user changes: the interpreter's own files may be closed to the other one.
_AS_NOBODY = """
import os, sys
from pathlib import Path
import alembic.command, alembic.script
from flserver.errors import UsageError
from flserver.store.lock import DatabaseLock
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
{imports}
if os.geteuid() == 0:
    os.setgroups({groups})
    os.setgid(65534)
    os.setuid(65534)
path = Path(sys.argv[1])
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can reach: pytest keeps its own to itself."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory
        directory.chmod(0o755)


def as_nobody(code: str, *arguments: object, imports: str = "", groups: Sequence[int] = ()) -> str:
    """What ``code`` prints as a user who owns nothing (root becomes nobody), after ``imports``.

    ``path`` is the first argument; nobody is in ``groups`` too.
    """
    program = _AS_NOBODY.format(imports=imports, groups=list(groups)) + code
    command = [sys.executable, "-c", program, *map(str, arguments)]
    root = str(Path(__file__).parents[1])
    return subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": root}, timeout=PATIENCE, check=True
    ).stdout
