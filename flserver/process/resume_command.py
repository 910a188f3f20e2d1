"""What an operator types to go on with a run that was interrupted, or to go back in one."""

import shlex
import shutil
import sys
from pathlib import Path


def resume_command(db: Path, name: str) -> str:
    """The command that goes on with the newest run called ``name`` in ``db``: for a shell, from whatever folder.

    What else the run was started with is on record with it.
    """
    return shlex.join([*_program(), "--db", str(db.absolute()), "--resume", "--run-name", name])


def go_back_command(db: Path, round: int) -> str:
    """The command that starts a run of its own from a ``round`` of the newest one in ``db``: for a shell."""
    return shlex.join([*_program(), "--db", str(db.absolute()), "--resume-from", str(round)])


def _program() -> list[str]:
    """How this installation's flserver is called here."""
    script = Path(sys.executable).with_name("flserver")
    if not script.exists():
        return [sys.executable, "-m", "flserver"]
    return ["flserver"] if shutil.which("flserver") == str(script) else [str(script)]
