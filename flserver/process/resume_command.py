"""What an operator types to go on with a run that was interrupted, or to go back in one."""

import shlex
import shutil
import sys
from pathlib import Path

from flserver.settings.places import Place, typed_anywhere


def resume_command(db: Place, ref: str) -> str:
    """The command that goes on with the run that ``ref`` means in ``db``, its name or its run_id: for a shell, from
    whatever folder.

    What else the run was started with is on record with it.
    """
    return shlex.join([*_program(), "--db", typed_anywhere(db), "--resume", "--run-name", ref])


def go_back_command(db: Place, ref: str, round: int) -> str:
    """The command that starts a child at a ``round`` of the run that ``ref`` means in ``db``: for a shell."""
    return shlex.join([*_program(), "--db", typed_anywhere(db), "--run-name", ref, "--resume-from", str(round)])


def _program() -> list[str]:
    """How this installation's flserver is called here."""
    script = Path(sys.executable).with_name("flserver")
    if not script.exists():
        return [sys.executable, "-m", "flserver"]
    return ["flserver"] if shutil.which("flserver") == str(script) else [str(script)]
