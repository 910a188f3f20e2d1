"""A live run's lines, read from its record as its events commit: what the server's own log says, from anywhere."""

from collections.abc import Iterator
from dataclasses import dataclass

from flserver.errors import StoreError
from flserver.events import Event, RunEnded, RunLeftOver, RunResumed
from flserver.events.words import RunStatus
from flserver.observers.log_lines import Lines
from flserver.store.payloads import from_payload
from flserver.store.reader import Reader, Row
from flserver.store.reading import PAGE

BEFORE = 2000
"""Events before the run's newest that are looked through for the first lines."""
TELLS = ("RunStarted", "RunResumed", "OperatorActed", "QuorumSettled", "StateChanged")
"""What earlier events say that later lines need: how many rounds there are, who is on the roster."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """A line about the event with the number ``seq``; ``at`` as on record, ``level`` as logging has it."""

    seq: int
    at: str
    level: int
    type: str
    text: str


class Following:
    """Follows a run, whose row of v1_runs exists. Each call opens the database and closes it again: a server that stops
    finds nobody in its way."""

    def __init__(self, reader: Reader, run_id: str) -> None:
        """Raises UsageError, as every method does where the database cannot be read."""
        self._reader, self._run_id = reader, run_id
        self._lines = Lines()
        self.run: Row = reader.run(run_id, exact=True)
        """Its row of v1_runs when the following began."""
        last = "SELECT seq, at FROM v1_events WHERE run_id = :run ORDER BY seq DESC LIMIT 1"
        _, ((newest, self.last_at),) = reader.query(last, {"run": run_id})
        start = max(0, newest - BEFORE)
        self._seq, types = 0, ", ".join(f"'{name}'" for name in TELLS)
        for _ in self._told(f"seq > :seq AND seq <= {start} AND run_id = :run AND type IN ({types})"):
            pass  # the lines remember what they need of it
        self._seq = start
        self.status: RunStatus = self.run["status"]
        """How the run is, as of the newest event that was read."""

    def more(self) -> Iterator[Told]:
        """The lines of the events that have been committed since the last call; at first of the newest ones."""
        # The plus keeps SQLite from the index over the run's events, all of which it would go through.
        yield from self._told("seq > :seq AND +run_id = :run")

    def _told(self, which: str) -> Iterator[Told]:
        query = f"SELECT seq, at, type, payload FROM v1_events WHERE {which} ORDER BY seq LIMIT {PAGE}"
        while True:
            # Whole pages: nothing is held open in the database while somebody reads the lines.
            _, page = self._reader.query(query, {"seq": self._seq, "run": self._run_id})
            for seq, at, type_, payload in page:
                self._seq = seq
                event = None if payload is None else _event(type_, payload)
                if event is None:
                    continue
                self._take(event)
                if (line := self._lines.of(event)) is not None:
                    yield Told(seq=seq, at=at, level=line[0], type=type_, text=line[1])
            if len(page) < PAGE:
                return

    def _take(self, event: Event) -> None:
        if isinstance(event, RunEnded):
            self.status = event.status
        elif isinstance(event, RunLeftOver):
            self.status = "interrupted"
        elif isinstance(event, RunResumed):
            self.status = "running"


def _event(type_: str, payload: str) -> Event | None:
    """The event, or None for one that this version does not know: a newer server has it."""
    try:
        return from_payload(type_, payload)
    except StoreError:
        return None
