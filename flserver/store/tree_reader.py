"""What heads and proofs are made of, and held against."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import text

from flserver import events as e
from flserver.events import UpdateReceived
from flserver.store.reader import CHAIN_PAGE, Reader, Row
from flserver.store.tree import StoredNodes

_OF_A_ROUND = (
    *(e.AttemptStarted, e.UpdateReceived, e.SuspectRejected, e.SuspectsCount, e.WeightConcentrated),
    *(e.RoundCommitted, e.AttemptAborted, e.CheckpointDeleted, e.KeptUpdatesDeleted),
)
"""What a round is made of, and what became of it."""


class TreeReader(Reader):
    """A reader of the tree over the events, its leaves and its signed heads."""

    @contextmanager
    def nodes(self) -> Iterator[StoredNodes]:
        """The tree over the events, of one moment; it raises StoreError where it is damaged."""
        with self._errors(), self._connect() as connection:
            yield StoredNodes(connection)

    def heads(self) -> list[Row]:
        """All rows of v1_heads, those of fewer events first."""
        return self._rows("SELECT * FROM v1_heads ORDER BY size, event_seq")

    def tree_nodes(self) -> list[Row]:
        """The nodes that are kept of the tree over the events: one for 256 of these."""
        return self._rows("SELECT level, place, hash FROM tree_nodes")

    def digests(self, page: int) -> Iterator[Sequence[str]]:
        """The digests of all events in their order, so many at a time."""
        with self._errors(), self._connect() as connection:
            found = connection.execution_options(yield_per=page).execute(text("SELECT digest FROM events ORDER BY seq"))
            yield from found.scalars().partitions()

    def newest_head(self) -> str | None:
        """The signed note of the newest head on record."""
        row = self._first("SELECT note FROM v1_heads ORDER BY event_seq DESC LIMIT 1")
        return None if row is None else str(row["note"])

    def event_row(self, seq: int) -> Row | None:
        """The row of events with that number."""
        return self._first("SELECT * FROM events WHERE seq = :seq", seq=seq)

    def event_of_update(self, update_id: int) -> int | None:
        """The number of the event that says that this update was received; None where none says so any more."""
        query = """
            SELECT seq FROM events JOIN updates USING (run_id)
            WHERE update_id = :update AND type = :type AND json_valid(payload)
                AND payload ->> 'update_id' = CAST(:update AS TEXT)"""
        row = self._first(query, update=update_id, type=UpdateReceived.__name__)
        return None if row is None else int(row["seq"])

    def purged(self) -> int:
        """How many events have no payload any more."""
        row = self._first("SELECT COUNT(*) AS purged FROM events WHERE payload IS NULL")
        return 0 if row is None else int(row["purged"])

    def events_of_client(self, client_id: str, upto: int) -> Iterator[Row]:
        """The rows of events that are about this client alone, of the first ``upto`` events."""
        query = """
            SELECT * FROM events WHERE seq <= :upto AND json_valid(payload)
                AND payload ->> 'client_id' = :client ORDER BY seq"""
        return self._paged(query, {"client": client_id, "upto": upto})

    def events_of_run(self, run_id: str, upto: int, round: int | None = None) -> Iterator[Row]:
        """The rows of events that are of this run, of the first ``upto`` events: all, or those that a ``round`` is made
        of, as far as their payloads are not purged."""
        kinds = ", ".join(f"'{kind.__name__}'" for kind in _OF_A_ROUND)
        of_it = "CAST(:round AS TEXT) IN (payload ->> 'round', payload ->> 'answers_round')"
        query = f"""
            SELECT * FROM events WHERE run_id = :run AND seq <= :upto
                AND (:round IS NULL OR (type IN ({kinds}) AND json_valid(payload) AND {of_it})) ORDER BY seq"""
        return self._paged(query, {"run": run_id, "upto": upto, "round": round})

    def _paged(self, query: str, parameters: Mapping[str, Any]) -> Iterator[Row]:
        with self._errors(), self._connect() as connection:
            pages = connection.execution_options(yield_per=CHAIN_PAGE)
            for row in pages.execute(text(query), parameters).mappings():
                yield dict(row)
