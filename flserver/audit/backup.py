"""A copy of the record, with the checkpoints that it names, made while a server writes both.

The copy is a folder that can be asked as it is: the database under its own name, the checkpoints beside it as a server
has them. Its database is there once all else is, so a folder without one is no backup.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flserver.audit.copies import Copies
from flserver.clock import utc_now
from flserver.errors import UsageError
from flserver.files import create, follow, make_folders, open_regular, sync_folder
from flserver.settings.folders import Folder
from flserver.settings.places import Place, checkpoints_beside
from flserver.settings.recorded import checkpoints_of, settings_of
from flserver.store.chain import GENESIS
from flserver.store.database import at, file_of
from flserver.store.reader import Reader
from flserver.store.schema import check
from flserver.store.sqlite import DATABASE_ERRORS, cause
from flserver.store.sqlite_copies import copy_database
from flserver.text import json_text

MANIFEST = "backup.json"
TRIES = 10
"""How often the database is copied again because checkpoints were pruned meanwhile. Each time there is less to copy."""


@dataclass(frozen=True, kw_only=True)
class Backup:
    """What a backup says of itself: the ``database`` that it is of (an absolute path on ``host``), what its copy is
    called, when it was ``made_at``, its number of ``events`` and their ``head``, and the names of the runs that were
    ``running``."""

    database: str
    host: str
    file: str
    made_at: str
    events: int
    head: str
    running: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Made:
    """A backup, how many files and bytes were copied for it, and what is wrong with them, a line each."""

    backup: Backup
    files: int
    bytes: int
    problems: tuple[str, ...]


def back_up(place: Place, folder: Path, checkpoint_dir: Folder | None = None) -> Made:
    """Copy the SQLite database at ``place`` and its checkpoints to ``folder``, which is made, or an earlier
    backup of the same.

    What is there already is not copied again. Returns when all would survive a power loss. Raises UsageError.
    """
    db = file_of(place, "pg_dump makes a backup of it, and the checkpoints are files to copy")
    at(db).require_there()
    if not check(db).at_head:
        raise UsageError(f"{db} is of an older version: flserver --db {db} db upgrade copies it too")
    made, whole = folder / db.name, folder / f".{db.name}.partial"
    with usage_errors(folder, "cannot be a backup"):
        _prepare(folder, db, made)
        with _removed(whole), closing(Copies(checkpoints_beside(made))) as copies:
            reader = _copied(db, whole, checkpoint_dir, copies)
            head = reader.head()
            running = tuple(run["name"] for run in reader.runs() if run["status"] == "running")
            backup = Backup(
                database=str(db.resolve()),
                host=socket.gethostname(),
                file=db.name,
                made_at=utc_now(),
                events=head.seq if head else 0,
                head=head.digest() if head else GENESIS,
                running=running,
            )
            copies.finish()
            _write(folder / MANIFEST, backup)
            os.rename(whole, made)
            copies.prune()  # what the backup before this one named
            sync_folder(folder)
    return Made(backup=backup, files=copies.copied, bytes=copies.bytes, problems=tuple(copies.problems))


def read_backup(folder: Path) -> Backup:
    """What the backup in ``folder`` says of itself. Raises UsageError where there is none, or it is not whole."""
    try:
        with open_regular(folder / MANIFEST) as file:
            said: dict[str, Any] = json.loads(file.read(1 << 20))
        backup = Backup(**{**said, "running": tuple(said["running"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{folder} is no backup: its {MANIFEST} cannot be read ({error})") from error
    if Path(backup.file).name != backup.file or not (folder / backup.file).is_file():
        raise UsageError(f"{folder} is no whole backup: its database is not there")
    return backup


def _prepare(folder: Path, db: Path, made: Path) -> None:
    """Make the folder, or see that what it has is a backup of this database."""
    make_folders(folder)
    ours = {MANIFEST, made.name, f".{made.name}.partial", checkpoints_beside(made).name}
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in ours)
    if others:
        raise UsageError(f"{folder} has something else in it, {others[0]}: name an empty folder, or one to be made")
    if made.exists():
        if os.path.samefile(made, db):
            raise UsageError(f"{folder} is where the database itself lies")
        head = Reader(made).head()
        if head is not None and Reader(db).event(head.seq) != head:
            raise UsageError(
                f"{made} is no earlier state of {db}: they differ at event {head.seq}. Name another folder"
            )


def _copied(db: Path, whole: Path, checkpoint_dir: Folder | None, copies: Copies) -> Reader:
    """Copy the database, and all checkpoints that the copy names."""
    before = None
    runs = [run for run in Reader(db).runs() if settings_of(run).get("keep_checkpoints")]
    places = ((checkpoints_of(run, checkpoint_dir, db), run["run_id"]) for run in runs)
    folders = [place.resolve() / run_id for place, run_id in places if isinstance(place, Path)]

    def hold() -> None:
        for folder in folders:
            copies.hold(folder)

    for _ in range(TRIES):
        whole.unlink(missing_ok=True)
        os.close(create(whole))
        follow(db, whole)
        copy_database(db, whole, hold)
        reader = Reader(whole)
        missing = copies.take(reader, ((run, checkpoints_of(run, checkpoint_dir, db)) for run in reader.runs()))
        # What is pruned while it is copied is in the next copy of the database as that; what is lost never is.
        if not missing or missing == before:
            break
        before = missing
    return reader


def _write(path: Path, backup: Backup) -> None:
    beside = path.with_name(f"{path.name}.partial")
    beside.unlink(missing_ok=True)
    with os.fdopen(create(beside), "w", encoding="utf-8") as file:
        file.write(json_text(asdict(backup), indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.rename(beside, path)


@contextmanager
def _removed(file: Path) -> Iterator[None]:
    """Remove what is there under this name, should the block fail."""
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink(missing_ok=True)


@contextmanager
def usage_errors(place: Path, what: str) -> Iterator[None]:
    """What the disk or the database says within the block, as a UsageError that says ``what`` of ``place``."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{place} {what}: {error.strerror}") from error
    except DATABASE_ERRORS as error:
        raise UsageError(f"{place} {what}: {cause(error)}") from error
