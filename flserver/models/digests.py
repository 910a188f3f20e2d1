"""Checkpoints by what the record says of them, without torch: where they lie, and their SHA-256 (``sha256sum``)."""

import hashlib
import re
from collections.abc import Iterable
from os.path import realpath
from pathlib import Path
from typing import overload

from flserver.buckets import Unreachable
from flserver.errors import CheckpointError
from flserver.models.stored import opened
from flserver.settings.folders import Folder, ObjectPath
from flserver.text import printable

NAME = re.compile(r"round-(\d{6,})-[0-9a-f]{16}\.safetensors")  # the round, and 16 digits of the digest
METADATA = {"format": "pt", "writer": "flserver checkpoint 1"}
"""What a file says of itself beside its tensors: nothing that differs between equal ones."""


@overload
def located(folder: Path, path: str, named: re.Pattern[str] = NAME) -> Path: ...
@overload
def located(folder: ObjectPath, path: str, named: re.Pattern[str] = NAME) -> ObjectPath: ...
def located(folder: Folder, path: str, named: re.Pattern[str] = NAME) -> Folder:
    """Where the file lies that the record calls ``path``, below ``folder``: a checkpoint, or what else is so ``named``.

    A record may be a stranger's. Raises CheckpointError where it names no checkpoint, or something that lies elsewhere.
    """
    place: Folder
    if isinstance(folder, ObjectPath):
        parts = path.split("/") if isinstance(path, str) and path.isprintable() else [""]
        place, below = folder / "/".join(parts), not {"", ".", ".."} & set(parts)
    else:
        try:
            place = Path(realpath(folder / path))
            below = place.is_relative_to(realpath(folder))
        except (ValueError, TypeError):  # no text, or none that a path can be
            place, below = Path(), False
    what = "checkpoint" if named is NAME else "kept update"
    if not below or not named.fullmatch(place.name):
        raise CheckpointError(f"the record names {printable(str(path))!r}, which is no {what} below {folder}")
    return place


def sha256_of(pieces: Iterable[bytes | memoryview]) -> str:
    """``sha256:hex`` of all pieces one after another."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return f"sha256:{digest.hexdigest()}"


def sha256_of_file(place: Folder) -> str:
    """``sha256:hex`` of the file at ``place``, which is read in pieces. Raises OSError."""
    with opened(place) as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def check_file(place: Folder, digest: str) -> None:
    """Read the checkpoint at ``place``. Raises CheckpointError where it cannot be read, or its digest is not
    ``digest``, the one on record (``sha256:hex``)."""
    try:
        found = sha256_of_file(place)
    except OSError as error:
        raise unreadable(place, error) from error
    check_digest(place, digest, found)


def unreadable(place: Folder, error: OSError) -> CheckpointError:
    """What to raise where the checkpoint at ``place`` could not be read because of ``error``."""
    moved = not place.parent.is_dir() if isinstance(place, Path) else isinstance(error, FileNotFoundError)
    elsewhere = "; if its folder was moved, --checkpoint-dir says where to" if moved else ""
    return CheckpointError(f"checkpoint {place}: {error.strerror}{elsewhere}")


def not_here(error: CheckpointError) -> bool:
    """Whether it was raised because a file is not where it was looked for, or that cannot be told just now: which is
    not to say that it was changed."""
    return isinstance(error.__cause__, (FileNotFoundError, Unreachable))


def check_digest(place: Folder, digest: str, found: str) -> None:
    """Raises CheckpointError where ``found``, the digest of the checkpoint at ``place``, is not ``digest``, the one on
    record."""
    if found != digest:
        raise CheckpointError(f"checkpoint {place} does not match its digest: the record says {digest}, it is {found}")
