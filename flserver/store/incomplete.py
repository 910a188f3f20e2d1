"""Tables that lack what their events hold: a downgrade took columns away, and the next upgrade fills them again."""

import logging

from sqlalchemy import Connection

from flserver.errors import StoreError
from flserver.store.replay import rederive

MARK = 1  # SQLite keeps a number for its user in the file

logger = logging.getLogger(__name__)


def mark_incomplete(connection: Connection) -> None:
    """Note in the database that its tables lack columns."""
    connection.exec_driver_sql(f"PRAGMA user_version = {MARK}")


def is_incomplete(connection: Connection) -> bool:
    """Whether the tables have lacked columns since they were made."""
    return connection.exec_driver_sql("PRAGMA user_version").scalar() == MARK


def complete(connection: Connection) -> None:
    """Make the tables anew from the events. Where that cannot be they stay, and what lacks is NULL: that is logged."""
    try:
        with connection.begin_nested():
            rederive(connection)
    except StoreError as error:
        logger.warning("columns that an earlier downgrade took away stay empty in older rows: %s", error)
    connection.exec_driver_sql("PRAGMA user_version = 0")
