"""SHA-256 of checkpoints, as ``sha256sum`` prints it, without torch."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def sha256_of(pieces: Iterable[bytes | memoryview]) -> str:
    """``sha256:hex`` of the pieces together."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return f"sha256:{digest.hexdigest()}"


def sha256_of_file(path: Path) -> str:
    """``sha256:hex`` of a file, read in pieces. Raises OSError."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
