"""The tables of a record held against those derived from its events: both in one scratch database (``scratch``).

SQLite compares, row by row in the order of the keys, so that memory is bounded whatever the tables hold.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Table

from flserver.store import remaining
from flserver.store import tables as t
from flserver.store.purge import row_digest
from flserver.store.sqlite import driver_of

Key = Mapping[str, Any]
_MADE_BY_ONE = ("clients", "messages", "summaries", "updates", "client_metrics")
"""Tables of whose rows each is made by one event that can be purged: where the events still give the row, none was."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A row that is not what the events say. ``columns`` of one that was changed: what the table has, what follows from
    the events. Or a run's number of ``rows`` that were ``counted``, where it cannot be told which one it is."""

    table: str
    key: Key
    kind: Literal["changed", "added", "missing", "counted"]
    columns: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class CommittedRound:
    """A round of which the events say that it was committed: its checkpoint's name below the run's folder, its digest,
    and whether it was ``deleted``."""

    run_id: str
    round: int
    checkpoint: str
    digest: str
    deleted: bool


@dataclass(frozen=True, kw_only=True)
class KeptRow:
    """An update of which the events say that it is kept: its ``path`` below the checkpoint directory."""

    update_id: int
    run_id: str
    round: int
    client_id: str
    path: str


def row_count(connection: Connection, table: Table) -> int:
    """How many rows the record's table has."""
    return int(driver_of(connection).execute(f"SELECT COUNT(*) FROM record.{table.name}").fetchone()[0])


def differences(connection: Connection, table: Table) -> Iterator[Difference]:
    """The rows of the record's ``table`` that are not what the events say, and those that are missing; in the order of
    their keys. Raises sqlite3.Error."""
    told = 0
    for told, found in enumerate(_differences(connection, table), 1):  # noqa: B007
        yield found
    if not told:
        for run_id, there, made in remaining.wrong_counts(connection, table):
            yield Difference(table=table.name, key={"run_id": run_id}, kind="counted", columns={"rows": (there, made)})


def _differences(connection: Connection, table: Table) -> Iterator[Difference]:
    driver, name = driver_of(connection), table.name
    keys, columns = table.primary_key.columns.keys(), table.c.keys()
    if name in _MADE_BY_ONE:
        of_events = f"SELECT json_array({', '.join(keys)}) FROM main.{name}"
        driver.execute(f"DELETE FROM main.sealed WHERE name = ? AND key IN ({of_events})", (name,))
    sealed = driver.execute("SELECT COUNT(*) FROM main.sealed WHERE name = ?", (name,)).fetchone()[0]
    key_of = f"json_array({', '.join(f'r.{key}' for key in keys)})"
    free = f"NOT EXISTS (SELECT 1 FROM main.sealed AS s WHERE s.name = '{name}' AND s.key = {key_of})"
    free = free if sealed else "TRUE"
    same = " AND ".join(f"r.{key} = d.{key}" for key in keys)
    by = ", ".join(f"r.{key}" for key in keys)
    differs = " OR ".join(f"r.{column} IS NOT d.{column}" for column in columns if column not in keys)
    both = ", ".join(f"r.{column}, d.{column}" for column in columns)
    there = f"FROM record.{name} AS r LEFT JOIN main.{name} AS d ON {same}"
    there = f"{there} WHERE (d.{keys[0]} IS NULL OR {differs}) AND {free}"
    found = 0
    for row in driver.execute(f"SELECT {both} {there} ORDER BY {by}"):
        pairs = {column: (row[2 * at], row[2 * at + 1]) for at, column in enumerate(columns)}
        added = pairs[keys[0]][1] is None
        found += added
        changed = {} if added else {column: pair for column, pair in pairs.items() if not _equal(*pair)}
        key = {column: pairs[column][0] for column in keys}
        yield Difference(table=name, key=key, kind="added" if added else "changed", columns=changed)
    if sealed:
        yield from _changed_since_purged(connection, table)
    if table is t.updates:
        for update_id in remaining.updates_missing(connection):
            yield Difference(table=name, key={"update_id": update_id}, kind="missing", columns={})
    derived = driver.execute(f"SELECT COUNT(*) FROM main.{name}").fetchone()[0]
    if not sealed and row_count(connection, table) - found == derived:
        return
    alone = f"FROM main.{name} AS r WHERE NOT EXISTS (SELECT 1 FROM record.{name} AS d WHERE {same}) AND {free}"
    for row in driver.execute(f"SELECT {by} {alone} ORDER BY {by}"):
        yield Difference(table=name, key=dict(zip(keys, row, strict=True)), kind="missing", columns={})


def make_seals(connection: Connection) -> None:
    """Make the table of the rows that purges have left, and those of what is known of them."""
    driver = driver_of(connection)
    driver.execute(
        "CREATE TABLE main.sealed (name TEXT, key TEXT, digest TEXT, kept TEXT, PRIMARY KEY (name, key)) WITHOUT ROWID"
    )
    remaining.make_tables(connection)


def seal(connection: Connection, table: Table, key: Sequence[Any], digest: str | None) -> None:
    """From here on the row is held against a purge's digest; with None, against the events again."""
    driver, text = driver_of(connection), f"json_array({', '.join('?' * len(key))})"
    if digest is None:
        driver.execute(f"DELETE FROM main.sealed WHERE name = ? AND key = {text}", (table.name, *key))
    else:
        driver.execute(f"INSERT OR REPLACE INTO main.sealed VALUES (?, {text}, ?, NULL)", (table.name, *key, digest))


def _changed_since_purged(connection: Connection, table: Table) -> Iterator[Difference]:
    """The rows that purges have left, which are not as they left them."""
    keys, columns = table.primary_key.columns.keys(), table.c.keys()
    same = " AND ".join(f"r.{key} = json_extract(s.key, '$[{at}]')" for at, key in enumerate(keys))
    both = ", ".join(f"r.{column}" for column in columns)
    query = f"""
        SELECT s.key, s.digest, s.kept, {both} FROM main.sealed AS s LEFT JOIN record.{table.name} AS r ON {same}
        WHERE s.name = ? ORDER BY s.key"""
    for text, digest, kept, *row in driver_of(connection).execute(query, (table.name,)):
        key = dict(zip(keys, json.loads(text), strict=True))
        found = dict(zip(columns, row, strict=True))
        if found[keys[0]] is None:
            yield Difference(table=table.name, key=key, kind="missing", columns={})
            continue
        known = remaining.said_of(connection, table, found)
        if known is None:
            yield Difference(table=table.name, key=key, kind="added", columns={})
            continue
        wrong = {name: (found[name], was) for name, was in known.items() if not _equal(found[name], was)}
        if wrong or row_digest(table, found if kept is None else found | {"kept": kept}) != digest:
            yield Difference(table=table.name, key=key, kind="changed", columns=wrong)


def _equal(one: Any, other: Any) -> bool:
    return bool(type(one) is type(other) and one == other)


def committed_rounds(connection: Connection) -> Iterator[CommittedRound]:
    """The rounds that the events have committed, with what they say of the checkpoints, run by run in order."""
    query = f"""
        SELECT run_id, round, checkpoint, model_digest, checkpoint_deleted_at IS NOT NULL FROM main.{t.rounds.name}
        WHERE status = 'committed' ORDER BY run_id, round"""
    for run_id, number, checkpoint, digest, deleted in driver_of(connection).execute(query):
        yield CommittedRound(
            run_id=run_id, round=number, checkpoint=checkpoint, digest=digest, deleted=bool(deleted)
        )  # fmt: skip


def kept_updates(connection: Connection) -> Iterator[KeptRow]:
    """The updates that the events keep and have not deleted, in the order of their rounds."""
    query = "SELECT update_id, run_id, round, client_id, path FROM main.kept ORDER BY run_id, round, update_id"
    for update_id, run_id, number, client_id, path in driver_of(connection).execute(query):
        yield KeptRow(update_id=update_id, run_id=run_id, round=number, client_id=client_id, path=path)


def runs(connection: Connection) -> list[Mapping[str, Any]]:
    """The runs as the events have them: run_id, name and config."""
    rows = driver_of(connection).execute("SELECT run_id, name, config FROM main.runs ORDER BY event_seq")
    return [dict(zip(("run_id", "name", "config"), row, strict=True)) for row in rows]


def wrong_sums(connection: Connection) -> Iterator[tuple[str, int, Any, int]]:
    """The committed rounds whose number of samples is not the sum over their accepted updates, in the record's tables:
    run_id, round, the number, the sum."""
    yield from driver_of(connection).execute("""
        WITH counted AS MATERIALIZED (
            SELECT run_id, answers_round AS round, answers_attempt AS attempt, SUM(counted_size) AS sum
            FROM record.updates WHERE decision = 'accepted' GROUP BY 1, 2, 3)
        SELECT run_id, round, data_size, COALESCE(sum, 0)
        FROM record.rounds LEFT JOIN counted USING (run_id, round, attempt)
        WHERE status = 'committed' AND data_size IS NOT COALESCE(sum, 0) ORDER BY run_id, round""")


def digest_at(connection: Connection, seq: int) -> str | None:
    """The digest that the record's event ``seq`` states; None where there is no such event."""
    row = driver_of(connection).execute("SELECT digest FROM record.events WHERE seq = ?", (seq,)).fetchone()
    return row and str(row[0])


def names_nodes(connection: Connection) -> bool:
    """Whether the record is of ingest nodes: a round names some, or one has accepted a connection."""
    found = """SELECT 1 FROM record.events WHERE type = 'RoundCommitted' AND payload LIKE '%"nodes":[{%'
        OR type = 'ConnectionOpened' AND payload LIKE '%"node":"%' LIMIT 1"""
    return driver_of(connection).execute(found).fetchone() is not None
