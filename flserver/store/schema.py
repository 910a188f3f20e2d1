"""The database's schema: made where there is none, upgraded where it is old, refused where it is not ours.

alembic takes a while to import and is wanted once a start: it is imported where it is used.
"""

import logging
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
from flserver.settings.places import Address, Place
from flserver.store.database import Lock, at, file_of
from flserver.store.incomplete import complete, emptied, is_incomplete, mark_incomplete
from flserver.store.reader import Reader
from flserver.store.sqlite import BUSY_TIMEOUT
from flserver.store.sqlite_copies import temporary_engine, temporary_folder
from flserver.store.tables import DERIVED

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Engine


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
    before, None where there can be none."""

    before: str
    after: str
    copy: Path | None


def check(place: Place, *, migrations: Path | None = None) -> SchemaState:
    """Which schema the database at ``place`` has; it is only read.

    ``migrations`` is the folder of the migrations, None for flserver's own. Raises UsageError where the database is not
    ours, or was written by a newer flserver.
    """
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_config(migrations))
    head = scripts.get_current_head()
    assert head is not None, "there is a first migration"
    current = at(place).revision()
    known = {script.revision for script in scripts.walk_revisions()}
    if current is not None and current not in known:
        raise UsageError(
            f"{place} was written by a newer flserver: its schema is {current}, this one knows up to {head}. "
            "Use that newer version."
        )
    return SchemaState(current=current, head=head)


def ensure_head(
    place: Place,
    *,
    migrations: Path | None = None,
    group: int | None = None,
    patience: float = BUSY_TIMEOUT,
    lock: Lock | None = None,
) -> Upgrade | None:
    """Bring the database at ``place`` to the newest schema; make it where there is none, for ``group`` to read.

    A lock of another program is waited for, ``patience`` seconds.

    The caller holds the ``lock``; where it is lost meanwhile, nothing is changed, and StoreError says so. An old file
    is first copied beside itself (``runs.sqlite.before-0003``; an existing copy is kept, and the new one gets a
    number). All steps are one transaction. Returns what was upgraded, None where the database was new or at head.
    ``migrations`` is as in :func:`check`. Raises UsageError where the database cannot be ours or cannot be written; it
    is then untouched.
    """
    database = at(place)
    database.require_writable()
    with database.errors():
        database.settle()
    state = check(place, migrations=migrations)
    if isinstance(place, Address):
        from flserver.store.postgres.made import require_no_strangers

        with database.errors():
            require_no_strangers(str(place))
    if state.at_head:
        return None

    def migrate_when_free() -> None:
        engine = database.writing_engine(create=state.current is None, held=lock)
        database.when_free(patience, Event().wait, lambda: migrate(engine, migrations))

    with database.errors():
        if state.current is None:
            database.create(group)
            migrate_when_free()
            return None
        copy = database.copy_aside(state.head)
        migrate_when_free()
        return Upgrade(before=state.current, after=state.head, copy=copy)


def downgrade(place: Place, revision: str) -> Upgrade:
    """Bring the SQLite database at ``place`` down to an earlier ``revision``, so that the flserver which knows no later
    one can go on with it. The caller holds the lock; a copy is made first, as by :func:`ensure_head`.

    Columns that this revision does not have are lost; events are not, and the next upgrade makes the tables anew from
    them. Raises UsageError where there is no such earlier revision, where that would take what no event has any more
    (``check_way_down``), or the file cannot be changed.
    """
    from alembic import command

    current, database = check_way_down(place, revision), at(place)
    with database.errors():
        copy = database.copy_aside(revision)
        config, engine = _config(None), database.writing_engine()
        with engine.begin() as connection:
            config.attributes.update(connection=connection, down_to=revision)
            command.downgrade(config, revision)
            mark_incomplete(connection)
    return Upgrade(before=current, after=revision, copy=copy)


def check_way_down(place: Place, revision: str) -> str:
    """The revision of the database at ``place``. Raises UsageError where :func:`downgrade` would."""
    path = file_of(place, "an older flserver would have to know PostgreSQL; make it anew with flserver db copy")
    at(path).require_writable()
    state = check(path)
    if state.current is None:
        raise UsageError(f"there is no database at {path}")
    earlier = _earlier(state.current)
    if not state.at_head or revision not in earlier:
        raise UsageError(f"{path} is at {state.current}: it can go down to {', '.join(earlier) or 'no other'}")
    with at(path).errors():
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
    with made.connect() as there, at(path).reading_engine().connect() as connection:
        for table in DERIVED:
            found = there.exec_driver_sql(f"PRAGMA table_info({table.name})")
            columns[table.name] = frozenset(row[1] for row in found)
        return emptied(connection, columns)


@contextmanager
def as_it_will_be(place: Place, *, migrations: Path | None = None) -> Iterator[Reader]:
    """A reader of the database at ``place`` as :func:`ensure_head` would leave it; nothing is written.

    Where there is none, or an old one, it reads a temporary one, which is gone after the block. ``migrations`` and what
    is raised are as in :func:`ensure_head`.
    """
    database = at(place)
    database.require_writable()
    state = check(place, migrations=migrations)
    if state.at_head:
        yield Reader(place)
        return
    folder = temporary_folder()
    with database.errors(folder):
        stand_in = database.stand_in(empty=state.current is None)
    try:
        with database.errors(folder):
            migrate(stand_in, migrations)
        yield Reader(place, stand_in)
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
