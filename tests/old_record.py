"""Records as older versions have left them."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from flserver import events as e
from flserver.store.schema import ensure_head
from tests import facts
from tests.old_database import old_database
from tests.store import story

DIVERGED = facts.round_metric(name="loss", source="evaluate", value=float("nan"))


def as_then(events: Iterable[e.Event], revision: str) -> Iterator[e.Event]:
    """The events as a version of that schema emitted them."""
    for event in events:
        if isinstance(event, e.PeerIdentified) and revision < "0002":
            continue
        if isinstance(event, e.StrangersSummed) and revision < "0006":
            continue
        if isinstance(event, e.NodeStarted | e.NodeEnded) and revision < "0018":
            continue
        if isinstance(event, e.NodeLost) and revision < "0018":
            event = replace(event, slot=None)
        if isinstance(event, e.ClientRegistered) and revision < "0003":
            event = replace(event, metadata=None)
        if isinstance(event, e.UpdateReceived) and revision < "0014":
            event = replace(event, update_cosine=None)
        if isinstance(event, e.RoundCommitted) and event.round == 0:
            event = replace(event, metrics=(*event.metrics, DIVERGED))
        yield event


def old_record(path: Path, revision: str) -> None:
    """A record as that version has left it: the tables' columns of then."""
    now = path.with_name("now.sqlite")
    ensure_head(now)
    story.write(now, as_then(story.sound_run(), revision))
    story.write(now, as_then(story.left_over(), revision), run_id=story.LEFT, process_id=2)
    story.write(now, [facts.run_left_over(story.LEFT)], process_id=3)
    old_database(path, revision)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ATTACH ? AS now", (str(now),))
        for (table,) in connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
            if table != "alembic_version":
                columns = ", ".join(row[1] for row in connection.execute(f"PRAGMA main.table_info({table})"))
                connection.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM now.{table}")
        if revision < "0013":
            for table in ("round_metrics", "client_metrics"):
                if "note" in {row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")}:
                    connection.execute(f"UPDATE main.{table} SET note = NULL")  # from before there was one
