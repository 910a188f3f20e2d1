"""The record held against itself: its schema, the chain of events, the tables, the sums, every checkpoint
and every kept update."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flserver.audit.checkpoints import check_checkpoints
from flserver.audit.heads import check as check_tree
from flserver.audit.kept_updates import check_kept_updates
from flserver.audit.nodes import check_nodes
from flserver.audit.noted_heads import check_heads, read_heads
from flserver.audit.report import Finding, Outcome, limited
from flserver.settings.folders import Folder
from flserver.settings.places import Place
from flserver.store import compare
from flserver.store import tables as t
from flserver.store.replay import Replay, Replayed, recorded
from flserver.store.scratch import Scratch, scratch
from flserver.store.sqlite import store_errors
from flserver.store.tree_reader import TreeReader
from flserver.text import printable

NAMED = 10
"""Differences of a table, and of a chain, that have a line each; the rest is counted."""


@dataclass
class Verification:
    """A verification of the database ``db``. ``facts`` are filled while it runs: what the record is, for ``--json``."""

    db: Place
    checkpoint_dir: Folder | None = None
    with_checkpoints: bool = True
    audit_head: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def run(self) -> Iterator[Finding]:
        """What holds and what does not, as it is found.

        Raises UsageError where the database, or the file of heads, cannot be read at all.
        """
        heads = None if self.audit_head is None else read_heads(self.audit_head)
        with scratch(self.db) as place, store_errors(f"{self.db} cannot be verified"):
            self.facts |= {"db": str(self.db), "schema": place.revision}
            yield from self._schema(place)
            if t.events.name not in place.comparable:
                yield _unknown("chain", "the events cannot be read, so nothing can be held against them")
                return
            compare.make_seals(place.connection)
            replayed = Replay(place.connection, NAMED).run()
            yield from self._chain(replayed)
            yield from self._nodes(place, replayed)
            if heads is not None:
                yield from check_heads(heads, replayed.events, lambda seq: compare.digest_at(place.connection, seq))
            if place.incomplete:
                yield _unknown(
                    "tables", "a downgrade took columns off: `db upgrade` makes the tables anew of the events"
                )
            elif replayed.complete:
                yield from self._tables(place)
            else:
                yield _unknown("tables", "too many events have no rows that follow: the tables are not compared")
            # The tree is over the chain's digests: where those are not what they were, it says nothing of its own.
            if not replayed.broken and {t.heads.name, "tree_nodes"} <= place.comparable:
                yield from self._tree(place)
            if self.with_checkpoints:
                rounds = list(compare.committed_rounds(place.connection))
                runs = compare.runs(place.connection)
                yield from check_checkpoints(runs, rounds, self.checkpoint_dir, self.db)
                kept = list(compare.kept_updates(place.connection))
                yield from check_kept_updates(runs, kept, self.checkpoint_dir, self.db)

    def _schema(self, place: Scratch) -> Iterator[Finding]:
        for problem in place.problems:
            yield Finding(check="schema", outcome="broken", line=f"schema: {problem}")
        if not place.problems:
            yield Finding(check="schema", outcome="holds", line=f"the schema is that of {place.revision}")

    def _chain(self, replayed: Replayed) -> Iterator[Finding]:
        purged = len(replayed.purged)
        self.facts |= {"events": replayed.events, "head": replayed.head, "purged": purged}
        for problem in replayed.problems:
            yield Finding(check="chain", outcome="broken", line=problem)
        if (more := replayed.broken - len(replayed.problems)) > 0:
            yield Finding(check="chain", outcome="broken", line=f"… and {more} more in the chain", count=more)
        if not replayed.broken:
            line = f"{replayed.events} events, an unbroken chain to {replayed.head}"
            yield Finding(check="chain", outcome="holds", line=line)
        if covered := purged - replayed.uncovered:
            line = (
                f"the payloads of {covered} events were purged, and purges on record say so: these are believed what no"
            )
            line += " other event says of the rows that are left"
            yield Finding(check="purges", outcome="holds", line=line)
        if replayed.uncovered:
            line = f"the payloads of {replayed.uncovered} events are gone, and no purge is on record: what they were"
            line += " cannot be told"
            yield Finding(check="purges", outcome="unknown", line=line, count=replayed.uncovered)

    def _nodes(self, place: Scratch, replayed: Replayed) -> Iterator[Finding]:
        # What payloads are gone of, the purges on record answer for; any others make it nobody's word.
        covered = not (replayed.broken or replayed.uncovered)
        if not compare.names_nodes(place.connection):
            return
        rows = (row for page in recorded(place.connection, "record") for row in page)
        for holds, line in check_nodes(rows, covered=covered):
            outcome: Outcome = "unknown" if holds is None else "holds" if holds else "broken"
            yield Finding(check="nodes", outcome=outcome, line=line)

    def _tables(self, place: Scratch) -> Iterator[Finding]:
        rows, broken = 0, False
        self.facts["tables"] = {}
        for table in t.DERIVED:
            if table.name not in place.comparable:
                broken = True
                yield _unknown("tables", f"{table.name} is not compared: it is not the table that it should be")
                continue
            self.facts["tables"][table.name] = count = compare.row_count(place.connection, table)
            rows += count
            found = map(_difference, compare.differences(place.connection, table))
            for finding in limited(found, NAMED, table.name):
                broken = True
                yield finding
        if not broken:
            line = f"{rows} rows in {len(t.DERIVED)} tables are what the events say"
            yield Finding(check="tables", outcome="holds", line=line)
        if {t.rounds.name, t.updates.name} <= place.comparable:
            yield from self._sums(place)

    def _tree(self, place: Scratch) -> Iterator[Finding]:
        """The tree over the events and the heads that were signed of it."""
        lines = check_tree(TreeReader(self.db, place.copy))
        found = (Finding(check="tree", outcome="holds" if good else "broken", line=line) for good, line in lines)
        yield from limited(found, NAMED, "the tree")

    def _sums(self, place: Scratch) -> Iterator[Finding]:
        wrong = False
        for finding in limited(map(_sum, compare.wrong_sums(place.connection)), NAMED, "rounds"):
            wrong = True
            yield finding
        if not wrong:
            line = "each committed round's samples are those of its accepted updates"
            yield Finding(check="sums", outcome="holds", line=line)


def _unknown(check: Any, line: str) -> Finding:
    return Finding(check=check, outcome="unknown", line=line)


def _sum(wrong: tuple[str, int, Any, int]) -> Finding:
    run_id, number, data_size, found = wrong
    line = f"run {printable(run_id)} round {number}: data_size is {data_size}, its accepted updates have {found}"
    return Finding(check="sums", outcome="broken", line=line, where={"run_id": run_id, "round": number})


def _difference(found: compare.Difference) -> Finding:
    of = found.columns.items()
    said = {
        "added": "no event says so: the row was added, or its event is missing",
        "missing": "the row is missing",
        "counted": "; ".join(f"it has {now} {what}, and its events have made {was}" for what, (now, was) in of),
        "changed": "; ".join(f"{column} is {_shown(now)}, by the events {_shown(was)}" for column, (now, was) in of)
        or "it is not what a purge has left",
    }
    line = f"{found.table} {_shown_key(found.key)}: {said[found.kind]}"
    where = {"table": found.table, "key": dict(found.key), "what": found.kind, "columns": list(found.columns)}
    return Finding(check="tables", outcome="broken", line=line, where=where)


def _shown_key(key: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_shown(value)}" for name, value in key.items())


def _shown(value: Any) -> str:
    return "NULL" if value is None else printable(value, 80) if isinstance(value, str) else repr(value)
