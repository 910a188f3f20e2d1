"""The record held against itself: the chain of events, and every checkpoint against it."""

from collections.abc import Iterator
from pathlib import Path

from flserver.errors import CheckpointError
from flserver.models.digests import check_file, located
from flserver.settings.recorded import checkpoints_of
from flserver.store.reader import Reader


def verify_record(reader: Reader, checkpoint_dir: Path | None, db: Path) -> Iterator[tuple[bool, str]]:
    """Lines that say what holds (True) and what does not (False): the chain of events, then every checkpoint.

    A checkpoint is held against the digest in the chain, which nobody can change unseen; a row of ``v1_rounds`` that
    says otherwise is a line of its own.
    """
    chain = reader.verify_chain()
    for problem in chain.problems:
        yield False, problem
    if not chain.problems:
        yield True, f"{chain.events} events, an unbroken chain to {chain.head}"
    chained = reader.chained_digests()
    for run in reader.runs():
        folder = checkpoints_of(run, checkpoint_dir, db)
        for committed in reader.committed_rounds(run["run_id"]):
            where = f"run {run['name']} round {committed['round']}"
            digest = chained.get((run["run_id"], committed["round"]))
            if digest is not None and digest != committed["model_digest"]:
                yield False, f"{where}: v1_rounds says {committed['model_digest']}, the chain of events {digest}"
            if committed["checkpoint_deleted_at"] is not None:
                continue
            try:
                check_file(located(folder, committed["checkpoint"]), digest or committed["model_digest"])
            except CheckpointError as error:
                yield False, f"{where}: {error}"
            else:
                yield True, f"{where}: {committed['model_digest']}"
