"""A file by its place, on a disk or in a bucket: opened, looked for, removed. What goes wrong is an OSError."""

import os
import shutil
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO

from flserver import buckets
from flserver.errors import CheckpointError
from flserver.files import create, open_regular
from flserver.settings.folders import Folder, ObjectPath

PIECE = 1 << 20  # bytes


def opened(place: Folder) -> RawIOBase:
    """The file at ``place``, to be read; it can be sought in. Raises OSError where it cannot be read, or is a link, a
    pipe or the like."""
    return buckets.ObjectReader(place) if isinstance(place, ObjectPath) else open_regular(place)


def size_of(file: RawIOBase) -> int:
    """How many bytes an ``opened`` file has; it stands at its beginning then."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def is_there(place: Folder) -> bool:
    """Whether there is such a file. Raises CheckpointError where that cannot be told."""
    if isinstance(place, Path):
        return place.is_file()
    try:
        return buckets.exists(place)
    except OSError as error:
        raise CheckpointError(f"{place}: {error.strerror}") from error


def remove(place: Folder) -> None:
    """Delete the file, which may be gone already. Raises OSError."""
    if isinstance(place, Path):
        place.unlink(missing_ok=True)
    else:
        buckets.remove(place)


def copy(place: Folder, to: BinaryIO) -> None:
    """Copy the file's bytes to where ``to`` stands. Raises OSError."""
    with opened(place) as file:
        shutil.copyfileobj(file, to, PIECE)


def fetch(place: Folder, folder: Path) -> Path:
    """The file as one on a disk: where it is one, itself, else a copy of it in ``folder``. Raises OSError."""
    if isinstance(place, Path):
        return place
    here = folder / place.name
    with os.fdopen(create(here), "wb") as file:
        copy(place, file)
    return here


def free_space(directory: Path) -> int:
    """How many bytes are free on the disk on which ``directory`` lies, or will lie once it is made."""
    existing = next(p for p in (directory, *directory.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free
