"""Models out of the record."""

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from flserver.errors import UsageError
from flserver.models.checkpoint_format import read
from flserver.models.digests import located, sha256_of_file
from flserver.models.retention import MadeRound, best
from flserver.settings.recorded import checkpoints_of
from flserver.store.reader import Reader, Row


def export(reader: Reader, ref: str, which: str, out: Path, checkpoint_dir: Path | None, db: Path) -> str:
    """Write the model of round ``which`` (a number, ``best`` or ``last``) of run ``ref`` to ``out``.

    ``.pt`` holds a ``state_dict``, ``.safetensors`` the same tensors. Returns a line that says what was written. Raises
    UsageError or CheckpointError.
    """
    if out.suffix not in (".safetensors", ".pt"):
        raise UsageError(f"--out {out}: the name ends in .safetensors or .pt")
    run = reader.run(ref)
    committed = _committed(reader, run, which)
    if committed["checkpoint_deleted_at"] is not None:
        raise UsageError(
            f"the checkpoint of round {committed['round']} was pruned at {committed['checkpoint_deleted_at']}"
        )
    checkpoint = located(checkpoints_of(run, checkpoint_dir, db), committed["checkpoint"])
    model, strategy = read(checkpoint, committed["model_digest"])
    try:
        if out.suffix == ".pt":
            torch.save(model, out)
        elif strategy:
            save_file(model, out, metadata={"format": "pt"})
        else:  # the checkpoint itself: its digest is the one on record
            shutil.copyfile(checkpoint, out)
        digest = sha256_of_file(out)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UsageError(f"cannot write {out}: {error}") from error
    return (
        f"round {committed['round']} of run {run['name']}, on record as {committed['model_digest']}\n{out} is {digest}"
    )


def _committed(reader: Reader, run: Row, which: str) -> Row:
    if which == "best":
        rows = reader.committed_rounds(run["run_id"])
        found = best(map(MadeRound.of, rows))
        if found is None:
            raise UsageError(f"no round of run {run['name']} has an accuracy or a loss: there is no best one")
        return next(row for row in rows if row["round"] == found.round)
    if which != "last" and not which.isdecimal():
        raise UsageError(f"--round {which}: a number, best or last")
    return reader.committed_round(run["run_id"], None if which == "last" else int(which))
