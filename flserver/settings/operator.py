"""Who does something to the record, and why, in their own words: text from outside, printable and bounded."""

import getpass
import os
import pwd
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from flserver.files import open_regular
from flserver.text import printable

MOST_OF_A_NAME, MOST_OF_A_REASON = 100, 1000  # characters
ACTOR = "actor:"


@dataclass(frozen=True, kw_only=True)
class Operator:
    """An ``actor`` by name (None: unknown), and the ``reason`` they gave."""

    actor: str | None
    reason: str | None = None

    @classmethod
    def of(cls, actor: str | None, reason: str | None) -> Self:
        """What was typed; where no actor was, the system's user is it."""
        name = printable(actor or system_user(), MOST_OF_A_NAME)
        return cls(actor=name, reason=printable(reason, MOST_OF_A_REASON) if reason else None)

    def said_in(self, note: "Note") -> "Operator":
        """The same, with what somebody wrote in the file ``note`` for this once: the reason, and who it is after
        ``actor:`` in its first line."""
        text = note.take()
        first, _, rest = text.partition("\n")
        if not first.startswith(ACTOR):
            first, rest = "", text
        name, reason = first.removeprefix(ACTOR).strip(), " ".join(rest.split())
        return Operator.of(name, reason) if name else Operator(actor=self.actor, reason=Operator.of("-", reason).reason)


class Note:
    """The file of the same name as ``beside`` with ``.reason`` at its end, in which an operator says why before a
    signal. Each version of it counts once: what was there when this was made, or was taken, says nothing any more."""

    def __init__(self, beside: Path) -> None:
        self._path = beside.with_name(f"{beside.name}.reason")
        self._seen = self._version()

    def _version(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.lstat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def take(self) -> str:
        """What it says that is new; empty where there is nothing, or it is no file that can be read."""
        version, self._seen = self._seen, self._version()
        if self._seen is None or self._seen == version:
            return ""
        with suppress(OSError), open_regular(self._path) as file:
            return file.read(4 * (MOST_OF_A_NAME + MOST_OF_A_REASON)).decode(errors="replace")
        return ""


def system_user() -> str:
    """The user as whom this process runs."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def user_called(uid: int) -> str:
    """A user of this system by name, or by number where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
