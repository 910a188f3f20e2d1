"""Tables that lack what their events hold: a downgrade took columns away, and the next upgrade fills them again."""

import logging
from collections.abc import Mapping

from sqlalchemy import Connection, Table

from flserver.errors import StoreError
from flserver.events import PayloadsPurged, UpdateReceived
from flserver.store import tables as t
from flserver.store.payloads import from_payload
from flserver.store.purge import rows_of, sealing
from flserver.store.replay import rederive, rederive_with_gaps
from flserver.store.sqlite import driver_of

MARK = 1  # SQLite keeps a number for its user in the file

logger = logging.getLogger(__name__)


def mark_incomplete(connection: Connection) -> None:
    """Note in the database that its tables lack columns."""
    connection.exec_driver_sql(f"PRAGMA user_version = {MARK}")


def is_incomplete(connection: Connection) -> bool:
    """Whether the tables have lacked columns since they were made. On PostgreSQL there is no way down."""
    return connection.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA user_version").scalar() == MARK


def complete(connection: Connection) -> None:
    """Make the tables anew from the events. Where some were purged, fill what the others say; rows that rest on purged
    ones stay, and what lacks there is NULL: that is logged."""
    try:
        with connection.begin_nested():
            rederive(connection)
    except StoreError as error:
        logger.warning("columns that an earlier downgrade took away stay empty in older rows: %s", error)
        try:
            with connection.begin_nested():
                _fill(connection)
        except StoreError as worse:
            logger.warning("nor could the other rows be filled: %s", worse)
    connection.exec_driver_sql("PRAGMA user_version = 0")


def emptied(connection: Connection, columns: Mapping[str, frozenset[str]]) -> str | None:
    """Of the tables, which have only these ``columns`` after a way down, a column that is filled in rows that a purge
    has left: no upgrade fills it again. None where there is none."""
    query, driver = "SELECT payload FROM events WHERE type = ? AND payload IS NOT NULL", driver_of(connection)
    for (payload,) in driver.execute(query, (PayloadsPurged.__name__,)).fetchall():
        event = from_payload(PayloadsPurged.__name__, payload)
        assert isinstance(event, PayloadsPurged)
        for table, key, _ in sealing(event):
            if going := [column.name for column in table.c if column.name not in columns[table.name]]:
                by = " AND ".join(f"{column.name} = ?" for column in table.primary_key.columns)
                row = driver.execute(f"SELECT {', '.join(going)} FROM {table.name} WHERE {by}", key).fetchone()
                if filled := [name for name, value in zip(going, row or (), strict=False) if value is not None]:
                    return f"{table.name}.{filled[0]}"
    return None


def _fill(connection: Connection) -> None:
    """Derive from the events that are there into temporary tables, which hide those of their names, and take from these
    what the others lack; rows that a purge has sealed keep what they have."""
    driver = driver_of(connection)
    driver.execute("CREATE TEMP TABLE sealed (name TEXT, key TEXT, PRIMARY KEY (name, key)) WITHOUT ROWID")
    for table in t.DERIVED:
        columns = driver.execute(f"PRAGMA main.table_info({table.name})").fetchall()
        typed = ", ".join(f"{column} {kind}" for _, column, kind, *_ in columns)
        keys = ", ".join(table.primary_key.columns.keys())
        driver.execute(f"CREATE TEMP TABLE {table.name} ({typed}, PRIMARY KEY ({keys})) STRICT")  # refers to no parent
    for origin, event in rederive_with_gaps(connection):
        if isinstance(event, PayloadsPurged):
            for table, key, _ in sealing(event):
                text = f"json_array({', '.join('?' * len(key))})"
                driver.execute(f"INSERT OR IGNORE INTO temp.sealed VALUES (?, {text})", (table.name, *key))
        elif isinstance(event, UpdateReceived):  # a metric that is put anew is derived as ever
            for table, key in rows_of(event, origin):
                if table is t.client_metrics:
                    text = f"json_array({', '.join('?' * len(key))})"
                    driver.execute(f"DELETE FROM temp.sealed WHERE name = ? AND key = {text}", (table.name, *key))
    for table in t.DERIVED:
        _take(connection, table)
    for table in reversed(t.DERIVED):
        driver.execute(f"DROP TABLE temp.{table.name}")
    driver.execute("DROP TABLE temp.sealed")


def _take(connection: Connection, table: Table) -> None:
    driver, name = driver_of(connection), table.name
    keys = table.primary_key.columns.keys()
    others = [column.name for column in table.c if not column.primary_key]
    same = " AND ".join(f"old.{key} = new.{key}" for key in keys)
    key_of = f"json_array({', '.join(f'new.{key}' for key in keys)})"
    free = f"NOT EXISTS (SELECT 1 FROM temp.sealed AS s WHERE s.name = '{name}' AND s.key = {key_of})"
    taken = ", ".join(f"{column} = COALESCE(new.{column}, old.{column})" for column in others)
    driver.execute(f"UPDATE main.{name} AS old SET {taken} FROM temp.{name} AS new WHERE {same} AND {free}")
    columns = ", ".join(table.c.keys())
    missing = f"NOT EXISTS (SELECT 1 FROM main.{name} AS old WHERE {same})"
    driver.execute(f"INSERT INTO main.{name} ({columns}) SELECT {columns} FROM temp.{name} AS new WHERE {missing}")
