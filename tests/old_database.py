"""A database as an older version has left it."""

from pathlib import Path

from alembic import command

from flserver.store.schema import _config
from flserver.store.sqlite import writing_engine


def old_database(path: Path, revision: str = "0001") -> None:
    """Make one of this ``revision`` of the schema, without a run."""
    config = _config(None)
    with writing_engine(path, create=True).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
