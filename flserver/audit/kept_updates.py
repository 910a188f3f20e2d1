"""Every kept update held against the digest that its path, which is on record, names."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flserver.audit.report import Finding, Outcome, called
from flserver.errors import CheckpointError
from flserver.models.digests import located, not_here
from flserver.models.kept import NAME
from flserver.models.kept_files import check_kept_file
from flserver.settings.folders import Folder
from flserver.settings.places import Place
from flserver.settings.recorded import checkpoints_of
from flserver.store.compare import KeptRow
from flserver.text import printable


@dataclass(frozen=True)
class _Looked:
    outcome: Outcome
    said: str


def check_kept_updates(
    runs: Iterable[Mapping[str, Any]], kept: Iterable[KeptRow], checkpoint_dir: Folder | None, db: Place
) -> Iterator[Finding]:
    """Hash the files of the ``kept`` updates, in pieces. One that is not here cannot be told."""
    by_id, looked = {run["run_id"]: run for run in runs}, dict[tuple[str, str], _Looked]()
    names = called(by_id.values())
    for row in kept:
        run = by_id.get(row.run_id)
        name = names.get(row.run_id) or printable(row.run_id)
        line = f"run {name} round {row.round} client {printable(row.client_id)}"
        where = {"run_id": row.run_id, "round": row.round, "update_id": row.update_id, "client_id": row.client_id}
        file = row.run_id, row.path
        if file not in looked:  # clients may have sent the same
            looked[file] = _look(run, row.path, checkpoint_dir, db)
        found = looked[file]
        yield Finding(check="updates", outcome=found.outcome, line=f"{line}: {found.said}", where=where)


def _look(run: Mapping[str, Any] | None, path: str, checkpoint_dir: Folder | None, db: Place) -> _Looked:
    if run is None:
        return _Looked("unknown", "its run's settings are not on record: where its kept update lies cannot be told")
    try:
        place = located(checkpoints_of(run, checkpoint_dir, db), path, NAME)
        check_kept_file(place)
    except CheckpointError as error:
        gone = not_here(error)
        return _Looked("unknown" if gone else "broken", str(error))
    return _Looked("holds", f"kept update blake3:{place.stem}")
