"""The database's schema: made where there is none, upgraded where it is old, refused where it is not ours.

alembic takes a while to import and is wanted once a start: it is imported where it is used.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import flserver
from flserver.errors import UsageError
from flserver.files import create, follow
from flserver.store.busy import when_free
from flserver.store.incomplete import complete, emptied, is_incomplete, mark_incomplete
from flserver.store.reader import Reader
from flserver.store.rollback import roll_back
from flserver.store.sqlite import (
    BUSY_TIMEOUT,
    DATABASE_ERRORS,
    is_full,
    reading_engine,
    revision_of,
    unusable,
    writing_engine,
)
from flserver.store.sqlite_copies import copy_database, temporary_engine, temporary_folder
from flserver.store.tables import DERIVED

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Engine


ROOM = 2  # times the database: a copy of it, and what is changed, all of it at most


@dataclass(frozen=True, kw_only=True)
class SchemaState:
    """The revision that a database is at (None: there is no database, or an empty file), and the newest one known."""

    current: str | None
    head: str

    @property
    def at_head(self) -> bool:
        """Whether the database is at the newest revision."""
        return self.current == self.head


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """A database was brought from the revision ``before`` to ``after``, or down to it; the file ``copy`` is what it was
    before."""

    before: str
    after: str
    copy: Path


def check(path: Path, *, migrations: Path | None = None) -> SchemaState:
    """Which schema the database at ``path`` has; the file is only read.

    ``migrations`` is the folder of the migrations, None for flserver's own. Raises UsageError where the file is not
    ours, or was written by a newer flserver.
    """
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_config(migrations))
    head = scripts.get_current_head()
    assert head is not None, "there is a first migration"
    current = _revision(path)
    known = {script.revision for script in scripts.walk_revisions()}
    if current is not None and current not in known:
        raise UsageError(
            f"{path} was written by a newer flserver: its schema is {current}, this one knows up to {head}. "
            "Use that newer version."
        )
    return SchemaState(current=current, head=head)


def ensure_head(
    path: Path, *, migrations: Path | None = None, group: int | None = None, patience: float = BUSY_TIMEOUT
) -> Upgrade | None:
    """Bring the database at ``path`` to the newest schema; make it where there is none, for ``group`` to read.

    A lock of another program is waited for, ``patience`` seconds.

    The caller holds the DatabaseLock. An old database is first copied beside itself (``runs.sqlite.before-0003``; an
    existing copy is kept, and the new one gets a number). All steps are one transaction. Returns what was upgraded,
    None where the database was new or at head. ``migrations`` is as in :func:`check`. Raises UsageError where the file
    cannot be ours or cannot be written; it is then untouched.
    """
    _require_writable(path)
    with usage_errors(path):
        roll_back(path)
    state = check(path, migrations=migrations)
    if state.at_head:
        return None

    def migrate_when_free() -> None:
        engine = writing_engine(path, create=state.current is None)
        when_free(path, patience, Event().wait, lambda: migrate(engine, migrations))

    with usage_errors(path):
        if state.current is None:
            if not path.exists():
                os.close(create(path.resolve(), group))  # SQLite would make it for everybody to read
            migrate_when_free()
            return None
        copy = _copy(path, state.head)
        migrate_when_free()
        return Upgrade(before=state.current, after=state.head, copy=copy)


def downgrade(path: Path, revision: str) -> Upgrade:
    """Bring the database at ``path`` down to an earlier ``revision``, so that the flserver which knows no later one can
    go on with it. The caller holds the DatabaseLock; a copy is made first, as by :func:`ensure_head`.

    Columns that this revision does not have are lost; events are not, and the next upgrade makes the tables anew from
    them. Raises UsageError where there is no such earlier revision, where that would take what no event has any more
    (``check_way_down``), or the file cannot be changed.
    """
    from alembic import command

    current = check_way_down(path, revision)
    with usage_errors(path):
        copy = _copy(path, revision)
        config, engine = _config(None), writing_engine(path)
        with engine.begin() as connection:
            config.attributes.update(connection=connection, down_to=revision)
            command.downgrade(config, revision)
            mark_incomplete(connection)
    return Upgrade(before=current, after=revision, copy=copy)


def check_way_down(path: Path, revision: str) -> str:
    """The revision of the database at ``path``. Raises UsageError where :func:`downgrade` would."""
    _require_writable(path)
    state = check(path)
    if state.current is None:
        raise UsageError(f"there is no database at {path}")
    earlier = _earlier(state.current)
    if not state.at_head or revision not in earlier:
        raise UsageError(f"{path} is at {state.current}: it can go down to {', '.join(earlier) or 'no other'}")
    with usage_errors(path):
        lost = _emptied_by(path, revision)
        if lost is not None:
            nearer = takewhile(lambda other: _emptied_by(path, other) is None, earlier)
            raise UsageError(
                f"{path} cannot go down to {revision}, which has no {lost}: a purge took the events that would fill it "
                f"again. It can go down to {', '.join(nearer) or 'no other'}; or go back to a copy that is older"
            )
    return state.current


def _emptied_by(path: Path, revision: str) -> str | None:
    """As ``incomplete.emptied``, on the way down to the revision."""
    made, columns = temporary_engine(None), dict[str, frozenset[str]]()
    migrate(made, revision=revision)
    with made.connect() as there, reading_engine(path).connect() as connection:
        for table in DERIVED:
            found = there.exec_driver_sql(f"PRAGMA table_info({table.name})")
            columns[table.name] = frozenset(row[1] for row in found)
        return emptied(connection, columns)


@contextmanager
def as_it_will_be(path: Path, *, migrations: Path | None = None) -> Iterator[Reader]:
    """A reader of the database at ``path`` as :func:`ensure_head` would leave it; nothing is written.

    Where there is none, or an old one, it reads a temporary one, which is gone after the block. ``migrations`` and what
    is raised are as in :func:`ensure_head`.
    """
    _require_writable(path)
    state = check(path, migrations=migrations)
    if state.at_head:
        yield Reader(path)
        return
    folder = temporary_folder()
    with usage_errors(path, folder):
        stand_in = temporary_engine(path if state.current is not None else None)
    try:
        with usage_errors(path, folder):
            migrate(stand_in, migrations)
        yield Reader(path, stand_in)
    finally:
        stand_in.dispose()


def migrations_directory() -> Path:
    """The folder of flserver's own migrations: inside the package in a wheel, beside it in a checkout."""
    spec = find_spec("flserver.migrations")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent
    return Path(flserver.__path__[0]).resolve().parent / "migrations"


def _config(migrations: Path | None) -> "Config":
    from alembic.config import Config

    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    location = str(migrations or migrations_directory())
    config.set_main_option("script_location", location.replace("%", "%%"))
    return config


def migrate(engine: "Engine", migrations: Path | None = None, revision: str = "head") -> None:
    """Bring the database of ``engine`` up to a ``revision``, in one transaction."""
    from alembic import command

    config = _config(migrations)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        if revision == "head" and is_incomplete(connection):
            complete(connection)


def _earlier(revision: str) -> list[str]:
    """The revisions before ``revision``, the latest first."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_config(None))
    return [script.revision for script in scripts.iterate_revisions(revision, "base")][1:]


def _revision(path: Path) -> str | None:
    """The revision that the file states, None for a missing or empty one. Raises UsageError for another's file."""
    _require_file(path)
    if not path.exists() or path.stat().st_size == 0:
        return None
    with usage_errors(path):
        return revision_of(path)


def _copy(path: Path, head: str) -> Path:
    """A copy of the database, WAL included, under a name that nobody has yet."""
    stem = f"{path.name}.before-{head}"
    number = 1
    while True:
        copy = path.with_name(stem if number == 1 else f"{stem}-{number}")
        try:
            os.close(create(copy, mode=path.stat().st_mode & 0o777))
            break
        except FileExistsError:
            number += 1
    follow(path, copy)
    copy_database(path, copy)
    return copy


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a directory, not a database")
    if not path.parent.is_dir():
        raise UsageError(f"{path} cannot be made: there is no directory {path.parent}")


def _require_writable(path: Path) -> None:
    _require_file(path)
    # SQLite makes a journal beside the database: the directory must be writable too.
    for place in (path, path.parent):
        if place.exists() and not os.access(place, os.W_OK):
            raise UsageError(f"{place} cannot be written")


@contextmanager
def usage_errors(path: Path, folder: Path | None = None) -> Iterator[None]:
    """What fails is for the operator to mend; a disk that is full is that of ``folder``, None for the database's."""
    try:
        yield
    except DATABASE_ERRORS as error:
        if is_full(error):
            raise UsageError(_no_room(path, folder)) from error
        raise unusable(path, "used as a database", error) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be used as a database: {error.strerror}") from error


def _no_room(path: Path, folder: Path | None) -> str:
    """What to say where the database cannot be copied and brought to the newest schema for want of room."""
    size = sum(part.stat().st_size for part in (path, path.with_name(f"{path.name}-wal")) if part.exists())
    place = path.parent.resolve() if folder is None else folder.resolve()
    needed, free = (number / 2**20 for number in (ROOM * size, shutil.disk_usage(place).free))
    said = f"{path} cannot be upgraded: that takes up to {needed:,.0f} MiB in {place}, which has {free:,.0f} MiB free"
    if folder is None:
        return f"{said}: for a copy beside it and for what is changed. Make room there"
    return f"{said}: an upgrade is tried there first. Make room, or name another folder in SQLITE_TMPDIR"
