"""A backup made into a database that a server can go on with, once it was verified."""

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flserver.audit.backup import Backup, read_backup, usage_errors
from flserver.audit.copies import Copies
from flserver.audit.report import spoils
from flserver.audit.verify import Verification
from flserver.errors import UsageError
from flserver.files import create, make_folders, sync_folder
from flserver.settings.folders import SCHEME, Folder, ObjectPath, folder_of
from flserver.settings.places import Place, checkpoints_beside
from flserver.settings.recorded import OF_THE_ORIGINAL, settings_of
from flserver.store.chain import GENESIS
from flserver.store.database import file_of
from flserver.store.lock import DatabaseLock
from flserver.store.reader import Reader
from flserver.store.schema import as_it_will_be, migrate
from flserver.store.sqlite import writing_engine
from flserver.store.sqlite_copies import copy_database


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What was restored from ``backup``. ``problems`` are what does not hold, a line each: then nothing was restored.
    ``notices`` are what the operator should know, ``command`` is what goes on with the newest run (None: nothing)."""

    backup: Backup
    problems: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    command: str | None = None


def restore(folder: Path, place: Place, checkpoint_dir: Folder | None = None) -> Restored:
    """Make the SQLite database at ``place``, which is not there yet, from the backup in ``folder``, its checkpoints in
    ``checkpoint_dir`` (None: beside it).

    What was copied is verified before the database has its name; where it does not hold, nothing stays. Raises
    UsageError.
    """
    db = file_of(place, "restore it to a file, and flserver db copy makes one of PostgreSQL's of that")
    if isinstance(checkpoint_dir, ObjectPath):
        raise UsageError(
            f"--checkpoint-dir {checkpoint_dir}: a backup's checkpoints are restored to a disk. Leave it out; where "
            "an object store shall have them, copy their folder to there and go on with --resume --checkpoint-dir s3://…"
        )
    backup = read_backup(folder)
    source, checkpoints = folder / backup.file, checkpoint_dir or checkpoints_beside(db)
    whole = db.with_name(f".{db.name}.restoring")
    with usage_errors(db, "cannot be restored"):
        make_folders(db.parent)
    with usage_errors(db, "cannot be restored"), DatabaseLock(db, stays=False):
        for there in (db, *(db.with_name(f"{db.name}{end}") for end in ("-wal", "-journal"))):
            if os.path.lexists(there):
                raise UsageError(f"{there} is there already: name a database that is not, or move it away")
        copies = Copies(checkpoints, replaces=False)
        held = False
        try:
            whole.unlink(missing_ok=True)
            os.close(create(whole))
            copy_database(source, whole)
            make_folders(checkpoints)
            beside = checkpoints_beside(source)
            with as_it_will_be(whole) as reader:  # a backup may be an older version's
                copies.take(reader, ((run, beside) for run in reader.runs()))
                misstated = list(_misstated(backup, reader))
            found = Verification(whole, checkpoints).run()
            problems = (*misstated, *(one.line for one in found if spoils(one)))
            if held := not problems:
                copies.finish()
                migrate(writing_engine(whole))
                os.rename(whole, db)
                sync_folder(db.parent)
        finally:
            whole.unlink(missing_ok=True)
            if not held:
                copies.undo()
        if not held:
            return Restored(backup=backup, problems=problems)
    return Restored(backup=backup, notices=tuple(_notices(backup, db)), command=_command(Reader(db), db, checkpoints))


def _misstated(backup: Backup, reader: Reader) -> Iterable[str]:
    """What the manifest says otherwise than the database."""
    head = reader.head()
    events, digest = (head.seq, head.digest()) if head else (0, GENESIS)
    if (events, digest) != (backup.events, backup.head):
        yield f"the backup is of {backup.events} events to {backup.head}; there are {events} to {digest}"


def _notices(backup: Backup, db: Path) -> Iterable[str]:
    """What there is to know of the original: two servers of one run go on differently."""
    original = Path(backup.database)
    here = backup.host == socket.gethostname()
    there = f"{original} on {backup.host}"
    if here and original.exists() and not (db.exists() and original.samefile(db)):
        yield f"the original is there: {there}"
    elif backup.running:
        yield f"when the backup was made, {there} was in use by run {', '.join(backup.running)}"
    else:
        yield from _outside(db)
        return
    yield from _outside(db)
    yield (
        f"if both are served, their records differ after event {backup.events}, and neither is the whole: "
        "flserver verify ONE OTHER says where"
    )


def _outside(db: Path) -> Iterable[str]:
    """What the newest run would go on to write or sign in its original's place."""
    run = Reader(db).newest_run()
    if run is None or run["status"] == "completed":
        return
    config = settings_of(run)
    if (place := config.get("checkpoint_dir") or "").startswith(SCHEME):
        yield f"run {run['name']} had its checkpoints in {place}, which is as it was: what goes on here has its own"
    for key, does in OF_THE_ORIGINAL.items():
        if config.get(key):
            option = "--" + key.replace("_", "-")
            said = f"run {run['name']} {does} {config[key]}, as its original does"
            yield f"{said}: give it a file of its own with {option}"


def _command(reader: Reader, db: Path, checkpoints: Path) -> str | None:
    """What an operator types to go on with the newest run, with files of its own where its original has some."""
    run = reader.newest_run()
    if run is None or run["status"] == "completed":
        return None
    config = settings_of(run)
    recorded = config.get("checkpoint_dir")
    elsewhere = folder_of(recorded) != checkpoints.absolute() if recorded else checkpoints != checkpoints_beside(db)
    told = f" --checkpoint-dir {checkpoints}" if elsewhere else ""
    told += f" --audit-head {db}.heads" if config.get("audit_head") else ""
    if not config.get("sign_key"):
        return f"flserver --db {db} --resume{told}"
    locked = f" --passphrase-file {file}" if (file := config.get("sign_key_passphrase_file")) else ""
    return f"flserver keygen --out {db}.key{locked} && flserver --db {db} --resume{told} --sign-key {db}.key"
