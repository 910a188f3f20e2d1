"""Files as this process makes and reads them: whose they are, who may read them, and that they are what they seem.

A new file is for its owner, and for one group to read: the process's own, or the one that ``--group`` names. It is not
open to more for a moment, whatever the umask; a stricter umask holds, but with ``--group``.
"""

import errno
import grp
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from flserver.errors import UsageError
from flserver.text import did_you_mean

FILE_MODE = 0o640
FOLDER_MODE = 0o750
MORE = 0o027  # permissions beyond these: to write as the group, and everything as anybody else


def group_id(name: str | None) -> int | None:
    """The number of the group that ``--group`` names, also by its number; None where it names none.

    Raises UsageError where there is no such group, or this process cannot give it a file.
    """
    if name is None:
        return None
    try:
        group = int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError as error:
        meant = did_you_mean(name, (known.gr_name for known in grp.getgrall()))
        raise UsageError(f"--group {name}: there is no such group{meant}") from error
    if os.geteuid() != 0 and group not in (os.getegid(), *os.getgroups()):
        raise UsageError(f"--group {name}: the user that runs the server has to be in that group")
    return group


def create(path: Path, group: int | None = None, mode: int = FILE_MODE) -> int:
    """Make a file that is not there yet, for ``group`` to read; its descriptor, to write. Raises OSError, also where
    something has the name already, be it a link that leads nowhere."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, mode)
    try:
        if group is not None:
            os.fchown(descriptor, -1, group)
            os.fchmod(descriptor, mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def new_file(out: Path) -> Iterator[BinaryIO]:
    """A new file for this user and group, which is gone where the block raises. Raises UsageError where it cannot be
    made or written."""
    try:
        with open(create(out), "w+b") as file:
            try:
                yield file
            except BaseException:
                out.unlink()
                raise
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}") from error


def follow(path: Path, companion: Path) -> None:
    """Let the group of ``path`` have ``companion`` too, as far as this process may give it away."""
    with suppress(PermissionError):
        os.chown(companion, -1, path.stat().st_gid)


def check_makeable(folder: Path, option: str) -> None:
    """Raises UsageError where ``folder``, which ``option`` names, could not be made or written to. Nothing is made."""
    try:
        existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    except OSError as error:
        raise UsageError(f"{option}: cannot make {folder}: {error.strerror}") from error
    if not existing.is_dir():
        raise UsageError(f"{option}: cannot make {folder}: {existing} is not a directory")
    if not os.access(existing, os.W_OK):
        raise UsageError(f"{option}: {existing} cannot be written")


def make_folders(folder: Path, group: int | None = None) -> list[Path]:
    """Make ``folder``, with those above it that are missing, for ``group`` to look into. Those that were made, the
    lowest first. Raises OSError."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    for place in reversed(missing):
        try:
            os.mkdir(place, FOLDER_MODE)
        except FileExistsError:  # another process, such as a node beside this one, has made it just now
            continue
        if group is not None:
            os.chown(place, -1, group)
            os.chmod(place, FOLDER_MODE)
    return missing


def sync_folder(folder: Path) -> None:
    """Return once the names in ``folder`` would survive a power loss. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def own_cache(name: str) -> Path | None:
    """A folder of that name for what this process may trust to be its own, made if need be: this user's alone, in
    folders that nobody else can change, without links. None where there is none.

    It is in ``CACHE_DIRECTORY`` (systemd), ``XDG_CACHE_HOME`` or ``~/.cache``.
    """
    try:
        given = (
            os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
            or os.environ.get("XDG_CACHE_HOME")
            or Path.home() / ".cache"
        )
        folder = Path(given).resolve() / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found, users = folder.lstat(), (0, os.geteuid())
        others = [place.stat() for place in folder.parents]
    except (OSError, RuntimeError):  # no home
        return None
    alone = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == 0o700
    # In a folder for all, such as /tmp, the sticky bit keeps others from putting something else in its place.
    kept = all(up.st_uid in users and (up.st_mode & stat.S_ISVTX or not up.st_mode & 0o022) for up in others)
    return folder if alone and kept and os.access(folder, os.W_OK) else None


def open_regular(path: Path) -> FileIO:
    """Open the file at ``path`` to read it, without a buffer. Raises OSError where it cannot be read, or is a link, a
    pipe, a device or the like, which might never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return FileIO(descriptor, "rb")


def complaints(path: Path, group: int | None) -> list[str]:
    """What is to be said of a file or folder that is there already, and stays as it is: a line each where more than its
    group may read it, or more than its owner write it, and where ``group`` may not read it."""
    try:
        found = path.stat()
    except OSError:
        return []  # it will be made, or whoever needs it says what is wrong
    mode, meant = stat.S_IMODE(found.st_mode), FOLDER_MODE if stat.S_ISDIR(found.st_mode) else FILE_MODE
    lines = []
    if mode & MORE:
        lines.append(f"{path} is open to more users than its group (mode {mode:04o}): chmod {meant:o} closes it")
    if group is not None and (found.st_gid != group or not mode & stat.S_IRGRP):
        lines.append(f"{path} is not --group's to read: chgrp {group} and chmod {meant:o} give it to that")
    return lines
