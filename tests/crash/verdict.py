"""What must be so after a crash, before anybody goes on, and in the end: what is not, a line each."""

import contextlib
import hashlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flserver.audit.verify import Verification
from flserver.errors import UsageError
from flserver.settings.places import Place
from tests.crash.script import ACCEPTED, ROUNDS, Effect

DB = "runs.sqlite"
CHECKPOINTS = f"{DB}.checkpoints"
ROUNDS_MADE = """SELECT round, model_digest, checkpoint, checkpoint_deleted_at IS NOT NULL FROM v1_rounds
    WHERE status = 'committed' ORDER BY round"""
DECISIONS = "SELECT client_id, answers_round, decision FROM v1_updates"
ACCEPTED_OF = """SELECT client_id FROM v1_updates u JOIN v1_rounds r
    ON r.run_id = u.run_id AND r.round = u.answers_round AND r.attempt = u.answers_attempt
    WHERE r.status = 'committed' AND r.round = ? AND u.decision = 'accepted' ORDER BY client_id"""
WITHOUT_A_MESSAGE = """SELECT update_id FROM v1_updates WHERE message_id NOT IN
    (SELECT message_id FROM v1_messages WHERE direction = 'in' AND outcome = 'ok')"""
ACCEPTED_BESIDE = """SELECT update_id FROM v1_updates u WHERE decision = 'accepted' AND NOT EXISTS
    (SELECT 1 FROM v1_rounds r WHERE r.run_id = u.run_id AND r.round = u.answers_round
     AND r.attempt = u.answers_attempt AND r.status = 'committed')"""
TWICE = """SELECT json_extract(payload, '$.round') FROM v1_events WHERE type = 'RoundCommitted' GROUP BY 1
    HAVING COUNT(*) > 1"""
OUT_OF_TURN = """SELECT seq FROM (
    SELECT seq, process_id, MAX(process_id) OVER (ORDER BY seq) AS newest FROM events) AS e
    WHERE process_id < newest ORDER BY seq"""
DECIDED_TWICE = """SELECT json_extract(payload, '$.update_id') FROM v1_events WHERE type = 'UpdateReceived' GROUP BY 1
    HAVING COUNT(*) > 1"""

LOST = "SELECT payload FROM v1_events WHERE type = 'NodeLost'"
NOT_LOST = "SELECT update_id FROM v1_updates WHERE decision IS NULL OR decision <> 'lost'"


@dataclass(frozen=True)
class Uninterrupted:
    """The digests of its rounds, from 0 on, and the names of the checkpoints that it keeps."""

    digests: tuple[str, ...]
    files: frozenset[str]


class Record:
    """The record at ``place`` in one state, ``empty`` before it has tables. ``execute`` asks it."""

    def __init__(self, place: Place, checkpoints: Path, execute: Callable[..., Any], *, empty: bool = False) -> None:
        self.place, self.checkpoints, self.empty = place, checkpoints, empty
        self._execute = execute
        self.rounds = [] if empty else self.ask(ROUNDS_MADE)

    def ask(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        return list(self._execute(query, parameters).fetchall())

    def holds(self, effect: Effect) -> bool:
        """Whether the record has what somebody saw."""
        return not self.empty and bool(self.ask(effect.query, *effect.parameters)[0][0])


@contextlib.contextmanager
def looked_at(folder: Path) -> Iterator[Record]:
    """The record in ``folder``, in a copy: looking at it changes nothing of what a crash left."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in (DB, f"{DB}-wal", f"{DB}-journal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(folder / name, Path(scratch) / name)
        with contextlib.closing(sqlite3.connect(Path(scratch) / DB)) as connection:
            tables = connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'v1_rounds'").fetchone()[0]
            yield Record(folder / DB, folder / CHECKPOINTS, connection.execute, empty=not tables)


def after_crash(record: Record, meant: Uninterrupted, effects: Sequence[Effect]) -> Iterator[str]:
    """What is wrong before anybody goes on."""
    yield from so_far(record, meant, effects)
    for round, digest, checkpoint, deleted in record.rounds:
        if not deleted and _digest(record.checkpoints / checkpoint) != digest:
            yield f"round {round} is committed without its checkpoint"


def after_all(
    record: Record,
    meant: Uninterrupted,
    effects: Sequence[Effect],
    accepted: Mapping[int, Collection[str]] = ACCEPTED,
) -> Iterator[str]:
    """What is wrong once the run has come to its end, with the updates of those in its rounds that are ``accepted``."""
    yield from so_far(record, meant, effects)
    if len(record.rounds) != ROUNDS + 1:
        yield f"{len(record.rounds)} rounds are committed"
    if record.ask("SELECT name, status, rounds_committed FROM v1_runs") != [("sweep", "completed", ROUNDS)]:
        yield "the run is not complete, or not the only one"
    for client, round, decision in record.ask(DECISIONS):
        if decision is None:
            yield f"the update of {client} in round {round} has no decision"
    for round, clients in accepted.items():
        if (found := [row[0] for row in record.ask(ACCEPTED_OF, round)]) != sorted(clients):
            yield f"round {round} has the updates of {found}"
    for query, what in (
        (WITHOUT_A_MESSAGE, "update {} has no message"),
        (ACCEPTED_BESIDE, "update {} is accepted, and in no committed round"),
        (TWICE, "round {} is committed twice"),
        (DECIDED_TWICE, "update {} is decided twice"),
        (OUT_OF_TURN, "event {} is of a server whose run another one had taken over"),
    ):
        yield from (what.format(row[0]) for row in record.ask(query))
    losses = [json.loads(payload) for (payload,) in record.ask(LOST)]
    lost = {update["update_id"] for loss in losses for update in loss["updates"]}
    for update in sorted(lost.intersection(row[0] for row in record.ask(NOT_LOST))):
        yield f"update {update} was lost, and then decided otherwise"
    if (files := files_of(record)) != meant.files:
        yield f"files are left over or missing: {sorted(files ^ meant.files)}"
    try:
        findings = Verification(record.place, record.checkpoints).run()
        yield from (f"verify: {found.line}" for found in findings if found.outcome != "holds")
    except UsageError as error:
        yield f"verify: {error}"


def files_of(record: Record) -> frozenset[str]:
    """The names of the checkpoints that are there."""
    return frozenset(path.name for path in record.checkpoints.rglob("*") if path.is_file())


def so_far(record: Record, meant: Uninterrupted, effects: Sequence[Effect]) -> Iterator[str]:
    """What is wrong at any time, also while a server goes on."""
    digests = tuple(digest for _, digest, _, _ in record.rounds)
    if digests != meant.digests[: len(digests)]:
        yield f"the committed rounds {[row[0] for row in record.rounds]} are not those of the uninterrupted run"
    for effect in effects:
        if not record.holds(effect):
            yield f"{effect.what}, and the record does not say so"


def _digest(path: Path) -> str | None:
    try:
        return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None
