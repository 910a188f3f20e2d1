"""What a fleet's trainers did beside what was scripted, and beside what the record says. Pure but for ``read``."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

from flserver.simulation.parts import named
from flserver.simulation.script import Counts, What
from flserver.store.reader import Reader

ORDER = get_args(What)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """By client, what was ``scripted``, what its trainer has ``done``, and what is on record; None: not looked at."""

    scripted: Counts
    done: Counts
    recorded: Counts | None

    @property
    def rows(self) -> list[tuple[str, int, int, int | None]]:
        """What there is of each kind in all."""
        scripted, done, recorded = totals(self.scripted), totals(self.done), totals(self.recorded or {})
        there = {*scripted, *done, *recorded}
        kinds = [*(kind for kind in ORDER if kind in there), *sorted(there.difference(ORDER))]
        return [(kind, scripted[kind], done[kind], None if self.recorded is None else recorded[kind]) for kind in kinds]

    def differences(self) -> Iterator[str]:
        """A sentence for each kind in which trainers or record are not as scripted, and whose they are."""
        sides = [("the trainers did", self.done)]
        if self.recorded is not None:
            sides.append(("the record has", self.recorded))
        for says, found in sides:
            for kind, *_ in self.rows:
                whose = [
                    client_id
                    for client_id in sorted({*self.scripted, *found}, key=lambda one: (len(one), one))
                    if _of(self.scripted, client_id, kind) != _of(found, client_id, kind)
                ]
                if whose:
                    wanted, have = totals(self.scripted)[kind], totals(found)[kind]
                    yield f"{kind}: {says} {have:,} of {wanted:,} scripted; not as scripted: {named(whose)}"


def totals(counts: Counts) -> Counter[str]:
    total: Counter[str] = Counter()
    for of_one in counts.values():
        total.update(of_one)
    return total


def _of(counts: Counts, client_id: str, kind: str) -> int:
    return counts.get(client_id, Counter())[kind]


_UPDATES = """
    SELECT client_id, decision, reason, COUNT(*) FROM v1_updates WHERE run_id = :run_id GROUP BY 1, 2, 3"""
_DROPPED = """
    SELECT client_id, 'dropped', COUNT(*) FROM v1_client_rounds
    WHERE run_id = :run_id AND participation = 'dropped' GROUP BY 1"""
_BACK = """
    SELECT client_id, 'came back', COUNT(*) FROM v1_clients
    WHERE run_id = :run_id AND registration > 1 GROUP BY 1"""
_REFUSED = """
    SELECT m.client_id, 'refused', COUNT(*) FROM v1_messages m
    WHERE m.run_id = :run_id AND m.header = '<METADATA>' AND m.outcome = 'refused' AND m.client_id IS NOT NULL
      AND NOT EXISTS (SELECT 1 FROM v1_clients c WHERE c.run_id = m.run_id AND c.client_id = m.client_id) GROUP BY 1"""


def read(reader: Reader, run_id: str, clients: Collection[str]) -> Counts:
    """What the record of the run has of these clients. Raises UsageError."""
    found: Counts = {}
    with reader.asking() as asked:
        rows = [
            (client_id, _kind(decision, reason), count)
            for client_id, decision, reason, count in asked.rows(_UPDATES, {"run_id": run_id})[1]
        ]
        for query in (_DROPPED, _BACK, _REFUSED):
            rows += asked.rows(query, {"run_id": run_id})[1]
    for client_id, kind, count in rows:
        if client_id in clients:
            found.setdefault(client_id, Counter())[kind] += count
    return found


def _kind(decision: str | None, reason: str | None) -> str:
    if decision == "rejected":
        return f"rejected {(reason or 'other').partition(':')[0]}"
    return decision or "undecided"


def as_counts(done: Mapping[str, Mapping[str, int]]) -> Counts:
    return {client_id: Counter(counts) for client_id, counts in done.items()}
