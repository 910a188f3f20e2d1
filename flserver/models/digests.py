"""Checkpoints by what the record says of them, without torch: where they lie, and their SHA-256 (``sha256sum``)."""

import hashlib
import re
from collections.abc import Iterable
from os.path import realpath
from pathlib import Path

from flserver.errors import CheckpointError
from flserver.files import open_regular
from flserver.text import printable

NAME = re.compile(r"round-(\d{6})-[0-9a-f]{16}\.safetensors")  # the round, and 16 digits of the digest
METADATA = {"format": "pt", "writer": "flserver checkpoint 1"}
"""What a file says of itself beside its tensors: nothing that differs between equal ones."""


def located(folder: Path, path: str, named: re.Pattern[str] = NAME) -> Path:
    """Where the file lies that the record calls ``path``, below ``folder``: a checkpoint, or what else is so ``named``.

    A record may be a stranger's. Raises CheckpointError where it names no checkpoint, or something that lies elsewhere.
    """
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


def sha256_of_file(path: Path) -> str:
    """``sha256:hex`` of the file at ``path``, which is read in pieces. Raises OSError."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def check_file(path: Path, digest: str) -> None:
    """Read the checkpoint at ``path``. Raises CheckpointError where it cannot be read, or its digest is not ``digest``,
    the one on record (``sha256:hex``)."""
    try:
        with open_regular(path) as file:
            found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise unreadable(path, error) from error
    check_digest(path, digest, found)


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """What to raise where the checkpoint at ``path`` could not be read because of ``error``."""
    moved = "" if path.parent.is_dir() else "; if its folder was moved, --checkpoint-dir says where to"
    return CheckpointError(f"checkpoint {path}: {error.strerror}{moved}")


def check_digest(path: Path, digest: str, found: str) -> None:
    """Raises CheckpointError where ``found``, the digest of the checkpoint at ``path``, is not ``digest``, the one on
    record."""
    if found != digest:
        raise CheckpointError(f"checkpoint {path} does not match its digest: the record says {digest}, it is {found}")
