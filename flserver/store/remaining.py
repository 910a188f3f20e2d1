"""What the events that no purge takes still say of rows that one has left.

A purge's event has the digests of these rows, and whoever forges one has them of what was edited. But the events about
rounds stay, with each decision that a round's end made, its weight and where it is kept; and the type of every event.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table

from flserver import events as e
from flserver.store import tables as t
from flserver.store.purge import FROM_OUTSIDE
from flserver.store.sqlite import driver_of

Row = Mapping[str, Any]

MADE_BY: Mapping[str, str] = {
    e.ConnectionOpened.__name__: t.connections.name,
    e.MessageReceived.__name__: t.messages.name,
    e.MessageSent.__name__: t.messages.name,
    e.ClientRegistered.__name__: t.clients.name,
    e.StrangersSummed.__name__: t.summaries.name,
    e.UpdateReceived.__name__: t.updates.name,
}
"""By an event's type, the table in which each such event makes one row."""
_AS_GIVEN: Mapping[str, tuple[str, ...]] = {
    "connections": ("opened_at", "transport", "bytes_in", "bytes_out"),
    "client_rounds": ("sent_at", "bytes_out", "data_size", "update_norm", "bytes_in", "counted_size"),
}
"""Columns that one event gives, once: where an event that is there has given one, it is so."""


def make_tables(connection: Connection) -> None:
    """Make the tables for what is noted here."""
    for columns in (
        "kept (update_id INTEGER PRIMARY KEY, run_id TEXT, round INTEGER, client_id TEXT, path TEXT)",
        "decided (update_id INTEGER PRIMARY KEY, run_id TEXT, client_id TEXT, round INTEGER, attempt INTEGER, "
        "decision TEXT, weight REAL, samples INTEGER, UNIQUE (run_id, round, attempt, client_id))",
        "gone (run_id TEXT, name TEXT, count INTEGER)",
    ):
        driver_of(connection).execute(f"CREATE TABLE main.{columns}")


def note_kept(connection: Connection, run_id: str, event: e.RoundCommitted) -> None:
    """The updates that a round keeps."""
    of = {outcome.update_id: outcome.client_id for outcome in event.outcomes}
    rows = [(kept.update_id, run_id, event.round, of.get(kept.update_id, ""), kept.path) for kept in event.kept]
    driver_of(connection).executemany("INSERT OR REPLACE INTO main.kept VALUES (?, ?, ?, ?, ?)", rows)


def note_deleted(connection: Connection, run_id: str, event: e.KeptUpdatesDeleted) -> None:
    """Rows that a purge has left name no kept update any more: they were as the purge says when they still did."""
    driver = driver_of(connection)
    which, given = "run_id = ? AND round = ?", [run_id, event.round]
    for update_id, path in driver.execute(f"SELECT update_id, path FROM main.kept WHERE {which}", given).fetchall():
        if event.update_ids is None or update_id in event.update_ids:
            of_it = (path, t.updates.name, update_id)
            driver.execute("UPDATE main.sealed SET kept = ? WHERE name = ? AND key = json_array(?)", of_it)
            driver.execute("DELETE FROM main.kept WHERE update_id = ?", (update_id,))


def note_decided(connection: Connection, run_id: str, event: e.RoundCommitted | e.AttemptAborted) -> None:
    """The decisions that an attempt's end makes. An update counts with its weight of the round's samples."""
    size = event.data_size if isinstance(event, e.RoundCommitted) else None
    rows = [
        (
            *(one.update_id, run_id, one.client_id, event.round, event.attempt),
            *(("aborted", None, None) if size is None else ("accepted", one.weight, round((one.weight or 0) * size))),
        )
        for one in event.outcomes
        if one.update_id is not None
    ]
    driver_of(connection).executemany("INSERT OR REPLACE INTO main.decided VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)


def note_gone(connection: Connection, gone: Mapping[tuple[str, str], int]) -> None:
    """How many events of a run and of a type are without a payload, of the types that make rows."""
    rows = [(run_id, MADE_BY[kind], count) for (run_id, kind), count in gone.items()]
    driver_of(connection).executemany("INSERT INTO main.gone VALUES (?, ?, ?)", rows)


def said_of(connection: Connection, table: Table, row: Row) -> Row | None:
    """What the columns of a row that a purge has left have to be, those of which it is known; None: there is no such
    row. ``row`` is as the table has it."""
    known: dict[str, Any] = {}
    for column, words in FROM_OUTSIDE.get(table.name, {}).items():
        if row[column] not in words:
            known[column] = None
    if table is t.updates:
        return known | _of_update(connection, row)
    if table.name in _AS_GIVEN:
        given = _derived(connection, table, row)
        if given is None:
            return None if table is t.client_rounds else known
        known |= {name: given[name] for name in _AS_GIVEN[table.name] if given[name] is not None}
        if table is t.client_rounds:
            known |= _of_client_round(connection, row, given)
    return known


def updates_missing(connection: Connection) -> list[int]:
    """The updates that a round's end decided, and that have no row; but those that are told of as missing anyway."""
    query = """
        SELECT update_id FROM main.decided AS d WHERE update_id NOT IN (SELECT update_id FROM record.updates)
            AND update_id NOT IN (SELECT update_id FROM main.updates)
            AND NOT EXISTS (SELECT 1 FROM main.sealed AS s WHERE s.name = 'updates' AND s.key = json_array(d.update_id))
        ORDER BY update_id"""
    return [update_id for (update_id,) in driver_of(connection).execute(query)]


def wrong_counts(connection: Connection, table: Table) -> list[tuple[str, int, int]]:
    """The runs of which payloads are gone whose events have made another number of rows: run_id, how many rows there
    are, and how many were made."""
    count = "(SELECT COUNT(*) FROM {}.{} AS r WHERE r.run_id = g.run_id)"
    there, given = (count.format(database, table.name) for database in ("record", "main"))
    query = f"""
        SELECT run_id, {there} AS there, {given} + SUM(count) AS made FROM main.gone AS g
        WHERE name = ? GROUP BY run_id HAVING there <> made ORDER BY run_id"""
    return driver_of(connection).execute(query, (table.name,)).fetchall()


def _of_update(connection: Connection, row: Row) -> dict[str, Any]:
    driver, update_id = driver_of(connection), (row["update_id"],)
    kept = driver.execute("SELECT path FROM main.kept WHERE update_id = ?", update_id).fetchone()
    known: dict[str, Any] = {"kept": kept and kept[0], "weight": None}
    names = ("run_id", "client_id", "answers_round", "answers_attempt", "decision", "weight", "counted_size")
    query = "SELECT run_id, client_id, round, attempt, decision, weight, samples FROM main.decided WHERE update_id = ?"
    if (decided := driver.execute(query, update_id).fetchone()) is not None:
        known |= {name: value for name, value in zip(names, decided, strict=True) if value is not None}
    elif row["decision"] == "accepted" or (row["decision"] == "aborted" and not _left_over(connection, row)):
        known["decision"] = None
    return known


def _of_client_round(connection: Connection, row: Row, given: Row) -> dict[str, Any]:
    known: dict[str, Any] = {"weight": None, "seconds": given["seconds"]}
    seat = [row[name] for name in ("run_id", "round", "attempt", "client_id")]
    query = """
        SELECT decision, weight, samples FROM main.decided
        WHERE run_id = ? AND round = ? AND attempt = ? AND client_id = ?"""
    decided = driver_of(connection).execute(query, seat).fetchone()
    over = {"answers_round": row["round"], "answers_attempt": row["attempt"], "run_id": row["run_id"]}
    left_over = _left_over(connection, over)
    if not left_over:
        known["participation"] = given["participation"]
    if decided is not None:
        names = ("decision", "weight", "counted_size")
        known |= {name: value for name, value in zip(names, decided, strict=True) if value is not None}
    elif row["decision"] == "accepted" or (row["decision"] == "aborted" and not left_over):
        known["decision"] = None
    return known


def _left_over(connection: Connection, row: Row) -> bool:
    """Whether the attempt that an update answers was closed without naming its updates: its server was killed."""
    query = """
        SELECT 1 FROM main.rounds
        WHERE run_id = ? AND round = ? AND attempt = ? AND status = 'aborted' AND seconds IS NULL"""
    key = (row["run_id"], row["answers_round"], row["answers_attempt"])
    return driver_of(connection).execute(query, key).fetchone() is not None


def _derived(connection: Connection, table: Table, row: Row) -> Row | None:
    """The row as it follows from the events that are there; None where they give none."""
    keys, columns = table.primary_key.columns.keys(), table.c.keys()
    by = " AND ".join(f"{key} = ?" for key in keys)
    query = f"SELECT {', '.join(columns)} FROM main.{table.name} WHERE {by}"
    found = driver_of(connection).execute(query, [row[key] for key in keys]).fetchone()
    return found and dict(zip(columns, found, strict=True))
