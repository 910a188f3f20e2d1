"""Every checkpoint held against the digest that the events state."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flserver.audit.report import Finding, Outcome, called
from flserver.errors import CheckpointError
from flserver.models.digests import check_file, located, not_here
from flserver.settings.folders import Folder
from flserver.settings.places import Place
from flserver.settings.recorded import checkpoints_of
from flserver.store.compare import CommittedRound
from flserver.text import printable


def check_checkpoints(
    runs: Iterable[Mapping[str, Any]], rounds: Iterable[CommittedRound], checkpoint_dir: Folder | None, db: Place
) -> Iterator[Finding]:
    """Hash the checkpoints of the ``rounds`` that were not deleted, in pieces. One that is not here cannot be told; nor
    where the record does not say any more where they lie."""
    by_id = {run["run_id"]: run for run in runs}
    names = called(by_id.values())
    for committed in rounds:
        run = by_id.get(committed.run_id)
        line = f"run {names.get(committed.run_id) or printable(committed.run_id)} round {committed.round}"
        where = {"run_id": committed.run_id, "round": committed.round, "digest": committed.digest}
        if committed.deleted:
            continue
        if run is None:
            reason = "its run's settings are not on record: where its checkpoint lies cannot be told"
            yield Finding(check="checkpoints", outcome="unknown", line=f"{line}: {reason}", where=where)
            continue
        try:
            path = located(checkpoints_of(run, checkpoint_dir, db), committed.checkpoint)
            check_file(path, committed.digest)
        except CheckpointError as error:
            gone = not_here(error)
            outcome: Outcome = "unknown" if gone else "broken"
            yield Finding(check="checkpoints", outcome=outcome, line=f"{line}: {error}", where=where)
        else:
            yield Finding(check="checkpoints", outcome="holds", line=f"{line}: {committed.digest}", where=where)
