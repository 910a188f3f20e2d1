"""What must be so after a crash, before anybody goes on, and in the end: what is not, a line each."""

import contextlib
import hashlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flserver.audit.verify import Verification
from flserver.errors import UsageError
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
DECIDED_TWICE = """SELECT json_extract(payload, '$.update_id') FROM v1_events WHERE type = 'UpdateReceived' GROUP BY 1
    HAVING COUNT(*) > 1"""


@dataclass(frozen=True)
class Uninterrupted:
    """The digests of its rounds, from 0 on, and the names of the checkpoints that it keeps."""

    digests: tuple[str, ...]
    files: frozenset[str]


class Record:
    """A record as it is now, in a copy: looking at it changes nothing of what a crash left."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self._connection = connection
        tables = self.ask("SELECT COUNT(*) FROM sqlite_master WHERE name = 'v1_rounds'")
        self.rounds = self.ask(ROUNDS_MADE) if tables[0][0] else []
        self.empty = not tables[0][0]

    def ask(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        return self._connection.execute(query, parameters).fetchall()

    def holds(self, effect: Effect) -> bool:
        """Whether the record has what somebody saw."""
        return not self.empty and bool(self.ask(effect.query, *effect.parameters)[0][0])


@contextlib.contextmanager
def looked_at(folder: Path) -> Iterator[Record]:
    """The record in ``folder``."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in (DB, f"{DB}-wal", f"{DB}-journal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(folder / name, Path(scratch) / name)
        with contextlib.closing(sqlite3.connect(Path(scratch) / DB)) as connection:
            yield Record(folder, connection)


def after_crash(record: Record, meant: Uninterrupted, effects: Sequence[Effect]) -> Iterator[str]:
    """What is wrong before anybody goes on."""
    yield from _rounds_and_effects(record, meant, effects)
    for round, digest, checkpoint, deleted in record.rounds:
        if not deleted and _digest(record.folder / CHECKPOINTS / checkpoint) != digest:
            yield f"round {round} is committed without its checkpoint"


def after_all(record: Record, meant: Uninterrupted, effects: Sequence[Effect]) -> Iterator[str]:
    """What is wrong once the run has come to its end."""
    yield from _rounds_and_effects(record, meant, effects)
    if len(record.rounds) != ROUNDS + 1:
        yield f"{len(record.rounds)} rounds are committed"
    if record.ask("SELECT name, status, rounds_committed FROM v1_runs") != [("sweep", "completed", ROUNDS)]:
        yield "the run is not complete, or not the only one"
    for client, round, decision in record.ask(DECISIONS):
        if decision is None:
            yield f"the update of {client} in round {round} has no decision"
    for round, clients in ACCEPTED.items():
        if (found := [row[0] for row in record.ask(ACCEPTED_OF, round)]) != sorted(clients):
            yield f"round {round} has the updates of {found}"
    for query, what in (
        (WITHOUT_A_MESSAGE, "update {} has no message"),
        (ACCEPTED_BESIDE, "update {} is accepted, and in no committed round"),
        (TWICE, "round {} is committed twice"),
        (DECIDED_TWICE, "update {} is decided twice"),
    ):
        yield from (what.format(row[0]) for row in record.ask(query))
    files = {path.name for path in (record.folder / CHECKPOINTS).rglob("*") if path.is_file()}
    if files != meant.files:
        yield f"files are left over or missing: {sorted(files ^ meant.files)}"
    db = record.folder / DB
    try:
        yield from (f"verify: {found.line}" for found in Verification(db).run() if found.outcome != "holds")
    except UsageError as error:
        yield f"verify: {error}"


def _rounds_and_effects(record: Record, meant: Uninterrupted, effects: Sequence[Effect]) -> Iterator[str]:
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
