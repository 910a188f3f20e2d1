"""SHA-256 of checkpoints, as ``sha256sum`` prints it, without torch."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from flserver.errors import CheckpointError


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
        found = sha256_of_file(path)
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
