"""What of a record goes for good, and what stays: payloads and text from outside, checkpoints, or kept updates.

The one thing here that writes the record: what goes is on it, in the same transaction or before.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flserver.audit.condition import what_is_lost
from flserver.audit.report import Report
from flserver.audit.verify import Verification
from flserver.clock import utc_moment, utc_now
from flserver.errors import Damaged, UsageError
from flserver.events import CheckpointDeleted, Event, KeptUpdatesDeleted, OperatorActed
from flserver.models.digests import located
from flserver.models.kept import NAME as KEPT
from flserver.models.kept import kept_in
from flserver.models.stored import is_there, remove
from flserver.settings.folders import Folder
from flserver.settings.operator import Operator
from flserver.settings.places import Place
from flserver.settings.recorded import checkpoints_of, settings_of
from flserver.store.appending import Head
from flserver.store.database import Lock
from flserver.store.lock import Note
from flserver.store.purge import Selection, overwrite, preview, purge
from flserver.store.reader import Reader, Row
from flserver.store.schema import check

NAMED = 3
"""Findings that a refusal names; the rest is counted."""
What = Literal["payloads", "checkpoints", "updates"]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to go, of which runs: of the one that ``run`` names, of all what is older than ``before`` (a time as on
    record), or of all what is about ``client``; exactly one of the three is given. Who the ``operator`` is goes
    on record."""

    what: What
    run: str | None
    before: str | None
    client: str | None
    operator: Operator


@dataclass
class Plan:
    """What will go. ``lines`` say it, ``selections`` are of payloads, ``files`` are with their run and event;
    ``left_over`` runs are closed first; files that are ``deleted`` by the record are there still."""

    lines: list[str] = field(default_factory=list)
    selections: list[Selection] = field(default_factory=list)
    files: list[tuple[list[Folder], str, CheckpointDeleted | KeptUpdatesDeleted]] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    deleted: list[Folder] = field(default_factory=list)
    events: int = 0
    rows: int = 0

    @property
    def empty(self) -> bool:
        return not (self.selections or self.files)


def plan(db: Place, wanted: Wanted, checkpoint_dir: Folder | None, before: Note | None = None) -> Plan:
    """What a purge would do; ``before`` is what the lock's file says of whoever had the database.

    Raises UsageError where it is refused, and Damaged where the database lacks commits.
    """
    state = check(db)
    if not state.at_head:
        raise UsageError(f"{db} is of an older version: flserver --db {db} db upgrade")
    if sum(given is not None for given in (wanted.run, wanted.before, wanted.client)) != 1:
        raise UsageError("purge takes one of --run, --before and --client")
    if wanted.what == "checkpoints" and wanted.client is not None:
        raise UsageError("a checkpoint is no single client's: --client goes with --what payloads")
    reader, made = Reader(db), Plan()
    if (lost := what_is_lost(db, reader, before)) is not None:
        raise Damaged(f"{lost}. Put the newer database back, with its -wal file: nothing is purged")
    _require_sound(db)
    runs = reader.runs() if wanted.run is None else [reader.run(wanted.run)]
    for run in runs:
        if (kept := retained_until(run)) is not None and utc_now() < kept:
            line = f"run {run['name']} ({run['run_id']}) is retained until {kept}"
            if wanted.run is not None:
                raise UsageError(f"{line}: nothing of it is purged")
            made.lines.append(f"{line}: it stays")
        elif wanted.what == "payloads":
            _plan_payloads(db, run, wanted, made)
        elif wanted.what == "updates":
            _plan_updates(reader, run, wanted, checkpoint_dir, db, made)
        else:
            _plan_checkpoints(reader, run, wanted, checkpoint_dir, db, made)
    if not made.empty:
        touched = {selection.run_id for selection in made.selections} | {run_id for _, run_id, _ in made.files}
        made.left_over = [run_id for run_id in reader.left_over_runs() if run_id in touched]
        for copy in sorted(db.parent.glob(f"{db.name}.before-*")) if isinstance(db, Path) else ():
            made.lines.append(f"{copy} is from before an upgrade, and keeps what it has: delete it yourself")
    return made


def carry_out(db: Place, wanted: Wanted, made: Plan, lock: Lock) -> Head:
    """Do it, but for what ``finish`` does. The caller holds the ``lock``, and has since the plan was made. Returns
    the chain's head. Raises StoreError or OSError, and UsageError where a server waits for a run of it."""
    if sorted(filter(lock.takes_over, lock.left_over(made.left_over))) != sorted(made.left_over):
        raise UsageError("the server of a run that is to be purged is about to go on with it: stop it, and try again")
    runs = list(dict.fromkeys([*(s.run_id for s in made.selections), *(run_id for _, run_id, _ in made.files)]))
    detail: dict[str, Any] = {
        "what": wanted.what,
        "run": wanted.run and runs[0],
        "before": wanted.before,
        "client": wanted.client,
    }
    detail |= {"events": made.events, "rows": made.rows, "files": sum(len(paths) for paths, _, _ in made.files)}
    acted = OperatorActed(kind="purge", detail=detail, actor=wanted.operator.actor, reason=wanted.operator.reason)
    told: list[tuple[str, Event]] = [(runs[0], acted)]
    told += [(run_id, event) for _, run_id, event in made.files]
    head = purge(db, made.selections, told, made.left_over, lock)
    for paths, _, _ in made.files:  # after it is on record, as with --keep-checkpoints
        for path in paths:
            remove(path)
    return head


def _require_sound(db: Place) -> None:
    """A purge takes the digests of rows as they stand, and believes them: an edit would hold for good afterwards."""
    report = Report()
    for finding in Verification(db, with_checkpoints=False).run():
        report.add(finding)
    # Payloads that are gone already do not stand in the way: the rows that only they gave do not hold.
    wrong = [found.line for found in report.findings if found.outcome == "broken" or found.check != "purges"]
    if wrong:
        more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise UsageError(
            f"{db} does not hold, and a purge would hide that: {'; '.join(wrong[:NAMED])}{more}. Nothing is purged. "
            "flserver verify says more; put a sound copy back"
        )


def finish(db: Place, made: Plan) -> None:
    """Do again what does not depend on anything that goes: a purge can have been interrupted after it was on record.
    The caller holds the lock. Raises StoreError or OSError."""
    overwrite(db)
    for path in made.deleted:
        remove(path)


def retained_until(run: Row) -> str | None:
    """Until when nothing of a run (a row of v1_runs) may be purged, as on record; None: it may at any time."""
    kept = settings_of(run).get("retain_until")
    return utc_moment(kept) if kept else None


def _plan_payloads(db: Place, run: Row, wanted: Wanted, made: Plan) -> None:
    selection = Selection(run_id=run["run_id"], before=wanted.before, client_id=wanted.client)
    found = preview(db, selection)
    if found.sequences:
        made.selections.append(selection)
        made.events += len(found.sequences)
        made.rows += found.row_count
        made.lines.append(
            f"run {run['name']} ({run['run_id']}): the payloads of {len(found.sequences)} events, and the text from "
            f"outside in {found.row_count} rows"
        )


def _plan_checkpoints(
    reader: Reader, run: Row, wanted: Wanted, checkpoint_dir: Folder | None, db: Place, made: Plan
) -> None:
    rounds = [row for row in reader.committed_rounds(run["run_id"]) if row["checkpoint_deleted_at"] is None]
    folder, shared = checkpoints_of(run, checkpoint_dir, db), _others_files(reader, run, checkpoint_dir, db)
    going = []
    here = {located(folder, row["checkpoint"]) for row in rounds}
    for row in reader.committed_rounds(run["run_id"]):
        path = located(folder, row["checkpoint"])
        if row["checkpoint_deleted_at"] is not None and path not in shared | here and is_there(path):
            made.deleted.append(path)
            made.lines.append(f"{path} is deleted by the record, and still there")
    for row in rounds:
        path = located(folder, row["checkpoint"])
        if row is rounds[-1] and run["status"] != "completed":
            made.lines.append(f"run {run['name']}: round {row['round']} stays, from which it can be resumed")
        elif path in shared:
            made.lines.append(f"run {run['name']}: round {row['round']} stays, another run has its file too")
        elif wanted.before is None or row["ended_at"] < wanted.before:
            going.append(row)
            event = CheckpointDeleted(round=row["round"], attempt=row["attempt"], checkpoint=row["checkpoint"])
            made.files.append(([path], run["run_id"], event))
    if going:
        size = sum(row["checkpoint_bytes"] for row in going) / 2**20
        made.lines.append(f"run {run['name']} ({run['run_id']}): {len(going)} checkpoints, {size:,.1f} MiB")


def _plan_updates(
    reader: Reader, run: Row, wanted: Wanted, checkpoint_dir: Folder | None, db: Place, made: Plan
) -> None:
    folder, going = checkpoints_of(run, checkpoint_dir, db), dict[int, list[Row]]()
    staying: set[str] = set()
    for row in reader.kept_updates(run["run_id"]):
        old = wanted.before is None or row["received_at"] < wanted.before
        if old and (wanted.client is None or row["client_id"] == wanted.client):
            going.setdefault(row["answers_round"], []).append(row)
        else:
            staying.add(row["kept"])  # another client may have sent the same tensors
    named = staying | {row["kept"] for rows in going.values() for row in rows}
    for path in kept_in(folder, run["run_id"]).files():
        if path not in named:  # a purge was interrupted, or an attempt
            made.deleted.append(located(folder, path, KEPT))
            made.lines.append(f"{folder / path} is kept by the record no more, and still there")
    for round, rows in going.items():
        event = KeptUpdatesDeleted(round=round, update_ids=tuple(row["update_id"] for row in rows))
        paths: list[Folder] = [located(folder, path, KEPT) for path in {row["kept"] for row in rows} - staying]
        made.files.append((paths, run["run_id"], event))
    if going:
        count = sum(map(len, going.values()))
        made.lines.append(f"run {run['name']} ({run['run_id']}): {count} kept updates of {len(going)} rounds")


def _others_files(reader: Reader, run: Row, checkpoint_dir: Folder | None, db: Place) -> set[Folder]:
    return {
        located(checkpoints_of(other, checkpoint_dir, db), row["checkpoint"])
        for other in reader.runs()
        if other["run_id"] != run["run_id"]
        for row in reader.committed_rounds(other["run_id"])
        if row["checkpoint_deleted_at"] is None
    }
