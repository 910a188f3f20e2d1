"""What a witness remembers, in a folder of its own: each file is whole and durable, or not there.

``newest`` is the last head that was found to extend all before it; it is durable before the witness signs anything.
``heads/`` has those that it cosigned, ``refused/`` the heads that contradict: what their log has signed is evidence.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from flserver.errors import HeadError, UsageError
from flserver.files import FOLDER_MODE, create
from flserver.heads.note import MOST_BYTES, Checkpoint, Note

NEWEST, HEADS, REFUSED = "newest", "heads", "refused"


class Memory:
    """A witness's folder, made if need be. Raises UsageError where another process has it, or it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes out while the block runs."""
        try:
            for place in (self._folder, self._folder / HEADS, self._folder / REFUSED):
                place.mkdir(mode=FOLDER_MODE, exist_ok=True)
                _sync(place.parent)
            descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"--state {self._folder} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise UsageError(f"--state {self._folder}: another witness has it") from error
        finally:
            os.close(descriptor)

    @property
    def newest(self) -> Note | None:
        """The last head that was found to extend all before it; where its file is lost, the last one that was
        cosigned. Raises HeadError where the file is damaged."""
        path = self._folder / NEWEST
        if not path.exists():
            path = max((self._folder / HEADS).glob("*.note"), default=path)  # their names are sizes, of one length
        return read_note(path) if path.exists() else None

    def remember(self, head: Note) -> None:
        """Make ``head`` the newest. Raises OSError."""
        replace(self._folder / NEWEST, str(head))

    def cosigned(self, checkpoint: Checkpoint) -> bool:
        """Whether the witness has signed this head."""
        return self._cosigned(checkpoint).exists()

    def keep(self, cosigned: Note) -> None:
        """Keep a head that was cosigned. Raises OSError."""
        replace(self._cosigned(Checkpoint.parse(cosigned.text)), str(cosigned))

    def refuse(self, answer: str, head: Note) -> Path:
        """Keep an answer with a head that contradicts; its file. Raises OSError."""
        path = self._folder / REFUSED / f"{sha256(head.text.encode()).hexdigest()[:16]}.note"
        replace(path, answer)
        return path

    def _cosigned(self, checkpoint: Checkpoint) -> Path:
        return self._folder / HEADS / f"{checkpoint.size:019}.note"


def read_note(path: Path) -> Note:
    """The signed note in a file. Raises UsageError where it cannot be read, HeadError where it is none."""
    try:
        with open(path, "rb") as file:
            text = file.read(2 * MOST_BYTES)
        return Note.parse(text.decode())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (HeadError, UnicodeDecodeError) as error:
        raise HeadError(f"{path}: {error}") from error


def heads_in(place: Path) -> Iterator[tuple[Path, Note]]:
    """The notes in a witness's folder, or in one file. Raises as :func:`read_note` does."""
    if place.is_dir():
        names = sorted((place / HEADS).glob("*.note")) or sorted(place.glob("*.note"))
        for path in [*names, *(path for path in (place / NEWEST,) if path.exists())]:
            yield path, read_note(path)
    else:
        yield place, read_note(place)


def replace(path: Path, text: str) -> None:
    """Write a file as a whole, durable when this returns. Raises OSError."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)  # a crash left it
    with open(create(temporary), "wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
