"""All derived tables made anew from the record, and the record's chain looked at on the way."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete

from flserver.errors import StoreError
from flserver.events import (
    AttemptAborted,
    Event,
    KeptUpdatesDeleted,
    OperatorActed,
    PayloadsPurged,
    RoundCommitted,
    UpdateReceived,
)
from flserver.store import remaining
from flserver.store import tables as t
from flserver.store.chain import Chain
from flserver.store.compare import seal
from flserver.store.derive import derive
from flserver.store.derive.statements import Origin, Rows
from flserver.store.payloads import from_payload
from flserver.store.purge import PURGEABLE_NAMES, rows_of, sealing, unfounded
from flserver.store.ranges import Ranges
from flserver.store.sqlite import cause, driver_of

REPLAY_PAGE = 1000  # events in memory at once
MOST_CONTRADICTIONS = 100  # after as many the tables are given up
_EVENTS = tuple(t.events.c.keys())

Row = dict[str, Any]


def rederive(connection: Connection) -> None:
    """Make every derived table anew from the record, in the transaction that ``connection`` is in.

    Raises StoreError where a payload was purged (what it held is gone, the tables would lose it too), cannot be read,
    or contradicts the events before it.
    """
    for table in reversed(t.DERIVED):
        connection.execute(delete(table))
    rows = Rows(connection)
    for page in recorded(connection, "main"):
        for row in page:
            if row["payload"] is None:
                raise StoreError(f"event {row['seq']} was purged: the tables cannot be made anew from the record")
            _derive(rows, row)
        rows.write()


def rederive_with_gaps(connection: Connection) -> Iterator[tuple[Origin, Event]]:
    """Add the rows that follow from the events that are there to the derived tables, which are empty; each event, as
    it is taken. What follows from a purged one is missing, and contradicts nothing. Raises as :func:`rederive` does."""
    rows = Rows(connection)
    rows.gaps = True
    for page in recorded(connection, "main"):
        for row in page:
            if row["payload"] is not None:
                yield _derive(rows, row)
        rows.write()


@dataclass
class Replayed:
    """What a replay found: the chain's length and ``head``, what breaks it (as many as ``told`` at most), which events
    are ``purged``, and how many of them no purge on record covers (``uncovered``). ``complete`` is False where the
    tables were given up."""

    events: int = 0
    head: str = ""
    broken: int = 0
    problems: list[str] = field(default_factory=list)
    purged: Ranges = field(default_factory=Ranges)
    uncovered: int = 0
    complete: bool = True


class Replay:
    """Derives the tables of ``connection`` from the events of the database that is attached to it as ``record``.

    What does not hold is told and passed over: what follows from the other events is derived all the same, and what
    is missing contradicts nothing from there on (``Rows.gaps``). ``told`` is how many problems have a line.
    """

    def __init__(self, connection: Connection, told: int) -> None:
        self._connection, self._told = connection, told
        self._chain = Chain()
        self._found = Replayed()
        self._gaps = False
        self._rows: Rows | None = None
        self._contradictions = 0
        self._sealed = 0  # purges so far
        self._covered: list[list[int]] = []
        self._gone: dict[str, Ranges] = {}  # by run, the purgeable events without a payload
        self._unmade = Counter[tuple[str, str]]()  # by run and type, the events without a payload that make rows
        self._unsaid: int | None = None  # the last purge, until an operator's act says who did it
        self._erased = False  # whether a payload went with it
        self._refused: set[int] = set()

    def run(self) -> Replayed:
        """Go through all events. Raises sqlite3.Error where they cannot be read."""
        found = self._found
        for page in recorded(self._connection, "record"):
            usable = [row for row in page if self._holds(row)]
            if found.complete and not self._write(usable):
                for row in usable:  # once more, each by itself: which of them is it?
                    if found.complete and not self._write([row], tell=True):
                        self._contradictions += 1
                        found.complete = self._contradictions < MOST_CONTRADICTIONS
        self._require_act(None)
        with self._connection.begin():
            remaining.note_gone(self._connection, self._unmade)
        found.events, found.head = self._chain.events, self._chain.head
        covered = Ranges(sorted(self._covered))
        found.uncovered = sum(seq not in covered for seq in found.purged)
        return found

    def _holds(self, row: Row) -> bool:
        """Look at the chain's next row; whether it has a payload to derive from."""
        problem = self._chain.problem(row)
        if problem is not None:
            self._tell(f"event {row['seq']}: {problem}")
        if row["payload"] is None:
            self._found.purged.add(row["seq"])
            if row["type"] in PURGEABLE_NAMES:
                self._gone.setdefault(row["run_id"], Ranges()).add(row["seq"])
            if row["type"] in remaining.MADE_BY:
                self._unmade[row["run_id"], row["type"]] += 1
            self._set_gaps()
        return row["payload"] is not None

    def _tell(self, problem: str) -> None:
        self._found.broken += 1
        if len(self._found.problems) < self._told:
            self._found.problems.append(problem)
        self._set_gaps()

    def _set_gaps(self) -> None:
        self._gaps = True
        if self._rows is not None:
            self._rows.gaps = True

    def _follow_purges(self, origin: Origin, event: Event) -> None:
        """Note the rows that a purge has left; a metric that is put anew after it is derived as ever."""
        self._require_act(event)
        if isinstance(event, PayloadsPurged):
            self._follow_purge(origin, event)
        elif isinstance(event, RoundCommitted | AttemptAborted):
            if isinstance(event, RoundCommitted):
                remaining.note_kept(self._connection, origin.run_id, event)
            if origin.run_id in self._gone:
                remaining.note_decided(self._connection, origin.run_id, event)
        elif isinstance(event, KeptUpdatesDeleted):
            remaining.note_deleted(self._connection, origin.run_id, event)
        elif self._sealed and isinstance(event, UpdateReceived):
            for table, key in rows_of(event, origin):
                if table is t.client_metrics:
                    seal(self._connection, table, key, None)

    def _follow_purge(self, origin: Origin, event: PayloadsPurged) -> None:
        """Believe a purge what it can have done, and nothing of one that says more."""
        problem = unfounded(event, self._gone.get(origin.run_id, Ranges()))
        if problem is None and event.rows and not (event.sequences or (self._unsaid is not None and self._erased)):
            problem = "it says that a purge has left rows, and no payload went"
        if problem is not None:
            self._refuse(origin.seq, problem)
        elif event.sequences or event.rows:
            self._erased = True
            self._unsaid = origin.seq
            self._sealed += 1
            self._covered += [list(both) for both in event.sequences]
            for table, key, digest in sealing(event):
                seal(self._connection, table, key, digest)

    def _require_act(self, event: Event | None) -> None:
        """A purge is said by its events, one after another, and then by the operator's act; None: the record ends."""
        if self._unsaid is None or isinstance(event, PayloadsPurged):
            return
        if not (isinstance(event, OperatorActed) and event.kind == "purge"):
            self._refuse(self._unsaid, "it says that payloads were purged, and no operator's act follows it")
        self._unsaid, self._erased = None, False

    def _refuse(self, seq: int, problem: str) -> None:
        if seq not in self._refused:  # a page can be gone through twice
            self._refused.add(seq)
            self._tell(f"event {seq}: {problem}")

    def _write(self, page: Sequence[Row], *, tell: bool = False) -> bool:
        """Derive from the rows of a page, in one transaction; whether that could be done, else nothing of it is."""
        seq = None
        try:
            with self._connection.begin():
                if self._rows is None:
                    self._rows = Rows(self._connection)
                    self._rows.gaps = self._gaps
                for row in page:
                    seq = row["seq"]
                    self._follow_purges(*_derive(self._rows, row))
                self._rows.write()
        except Exception as error:  # what a payload holds that was changed can fail anywhere
            self._rows = None
            if tell:
                self._tell(f"event {seq}: no rows follow from it: {cause(error)}")
            return False
        return True


def _derive(rows: Rows, row: Row) -> tuple[Origin, Event]:
    origin = Origin(row["seq"], row["run_id"], row["process_id"])
    event = from_payload(row["type"], row["payload"])
    derive(rows, origin, event)
    return origin, event


def recorded(connection: Connection, database: str) -> Iterator[list[Row]]:
    """The rows of all events of a database that is attached as ``database``, page by page."""
    driver, start = driver_of(connection), -(2**63)
    page = f"SELECT {', '.join(_EVENTS)} FROM {database}.events WHERE seq >= ? ORDER BY seq LIMIT {REPLAY_PAGE}"
    while start < 2**63 and (rows := driver.execute(page, (start,)).fetchall()):
        yield [dict(zip(_EVENTS, row, strict=True)) for row in rows]
        start = rows[-1][0] + 1
