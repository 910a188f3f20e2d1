"""A reader whose answers are all of one moment, for what is made of many questions while a server writes."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import StaticPool, create_engine

from flserver.errors import UsageError
from flserver.store.reader import Reader
from flserver.store.sqlite import DATABASE_ERRORS, reading_engine, unusable


@contextmanager
def snapshot(path: Path) -> Iterator[Reader]:
    """Within the block, a Reader of the database at ``path`` as it is now, whatever is written meanwhile.

    It is to be short: a server's WAL grows as long as it lasts. Raises UsageError where there is no database that can
    be read.
    """
    if not path.is_file():
        raise UsageError(f"there is no database {path}")
    try:
        opened = reading_engine(path).raw_connection()
        driver = opened.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        opened.detach()
        driver.execute("BEGIN")  # the first answer is of the moment at which all others are
    except DATABASE_ERRORS as error:
        raise unusable(path, "read", error) from error
    with closing(driver):
        engine = create_engine("sqlite://", creator=lambda: driver, poolclass=StaticPool)
        # The end of an answer is not the end of the transaction.
        engine.dialect.do_rollback = _nothing  # type: ignore[method-assign, assignment]
        yield Reader(path, engine)


def _nothing(connection: object) -> None: ...
