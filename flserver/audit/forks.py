"""Two records of one past: where they part, and whether the files that each names are what they were."""

from collections.abc import Iterator
from dataclasses import dataclass

from flserver.audit.checkpoints import check_checkpoints
from flserver.audit.kept_updates import check_kept_updates
from flserver.audit.report import Finding
from flserver.settings.places import Place, checkpoints_beside
from flserver.store.chain import Link
from flserver.store.compare import CommittedRound, KeptRow
from flserver.store.reader import Reader


@dataclass(frozen=True, kw_only=True)
class Fork:
    """The last event that two databases have in common (0: none), and the next one of each (None: it has no more)."""

    common: int
    ours: Link | None
    theirs: Link | None


def fork(one: Reader, other: Reader) -> Fork:
    """Where the chain of ``one`` and that of ``other`` part.

    A digest stands for all events before it, so the place is found by halves. What the rows say is believed:
    verification is what holds each chain against itself. Raises UsageError.
    """
    ends = (one.head(), other.head())
    least, most = 0, min(0 if end is None else end.seq for end in ends)  # they agree at one, nowhere after the other
    while least < most:
        middle = (least + most + 1) // 2
        ours, theirs = one.event(middle), other.event(middle)
        if ours is not None and theirs is not None and ours == theirs:
            least = middle
        else:
            most = middle - 1
    return Fork(common=least, ours=one.event(least + 1), theirs=other.event(least + 1))


def look_at_files(db: Place) -> Iterator[Finding]:
    """Hash the checkpoints and kept updates that the database's tables name: beside it, where there are some, else
    where the record says. Raises UsageError."""
    reader, beside = Reader(db), checkpoints_beside(db)
    folder, runs = beside if beside.is_dir() else None, reader.runs()
    for run in runs:
        run_id = run["run_id"]
        rounds = [
            CommittedRound(
                run_id=run_id,
                round=row["round"],
                checkpoint=row["checkpoint"],
                digest=row["model_digest"],
                deleted=row["checkpoint_deleted_at"] is not None,
            )
            for row in reader.committed_rounds(run_id)
        ]
        yield from check_checkpoints([run], rounds, folder, db)
        kept = [
            KeptRow(
                update_id=row["update_id"],
                run_id=run_id,
                round=row["answers_round"],
                client_id=row["client_id"],
                path=row["kept"],
            )
            for row in reader.kept_updates(run_id)
        ]
        yield from check_kept_updates([run], kept, folder, db)
