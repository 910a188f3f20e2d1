"""A report as a file: new, or in place of an older one if that is said."""

import os
from contextlib import suppress
from pathlib import Path

from flserver.errors import UsageError
from flserver.files import create


def refuse_to_overwrite(out: Path, force: bool) -> None:
    """Raises UsageError where something is at ``out`` that was not said to go, or no file can be made there."""
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder; name a file in it")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}")
    if out.exists() and not force:
        raise UsageError(f"--out {out}: there is a file already; --force writes over it")


def write(out: Path, text: str, force: bool) -> None:
    """Write ``text`` to ``out``, whole or not at all. Raises UsageError."""
    refuse_to_overwrite(out, force)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with os.fdopen(create(part), "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(part, out)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise UsageError(f"cannot write {out}: {error.strerror or error}") from error
