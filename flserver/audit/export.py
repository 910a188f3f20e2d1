"""Models out of the record."""

import shutil
from pathlib import Path

import torch

from flserver.errors import UsageError
from flserver.models.checkpoint_format import read, serialize
from flserver.models.digests import located, sha256_of_file
from flserver.models.retention import MadeRound, best
from flserver.models.state import State
from flserver.settings.recorded import checkpoints_of
from flserver.store.reader import Reader, Row


def export(reader: Reader, ref: str | None, which: str, out: Path, checkpoint_dir: Path | None, db: Path) -> str:
    """Write the model of round ``which`` (a number, ``best`` or ``last``) of run ``ref`` to ``out``.

    ``.pt`` holds a ``state_dict``, ``.safetensors`` the same tensors. Returns a line that says what was written. Raises
    UsageError or CheckpointError.
    """
    check_name(out)
    run = reader.run(ref)
    committed = _committed(reader, run, which)
    if committed["checkpoint_deleted_at"] is not None:
        raise UsageError(
            f"the checkpoint of round {committed['round']} was pruned at {committed['checkpoint_deleted_at']}"
        )
    checkpoint = located(checkpoints_of(run, checkpoint_dir, db), committed["checkpoint"])
    model, strategy = read(checkpoint, committed["model_digest"])
    # Where it holds the model alone, the checkpoint itself: its digest is the one on record.
    digest = write_model(model, out, as_it_is=None if strategy else checkpoint)
    return (
        f"round {committed['round']} of run {run['name']}, on record as {committed['model_digest']}\n{out} is {digest}"
    )


def check_name(out: Path) -> None:
    """Raises UsageError where the name does not say which kind of file is meant."""
    if out.suffix not in (".safetensors", ".pt"):
        raise UsageError(f"--out {out}: the name ends in .safetensors or .pt")


def write_model(model: State, out: Path, as_it_is: Path | None = None) -> str:
    """Write a model to ``out``, of which :func:`check_name` thinks well; the digest of the file (``sha256:hex``). A
    safetensors file is a copy of the one that is there already ``as_it_is``, if one is. Raises UsageError."""
    try:
        if out.suffix == ".pt":
            torch.save(model, out)
        elif as_it_is is None:
            with out.open("wb") as file:
                for piece in serialize(model, {}):
                    file.write(piece)
        else:
            shutil.copyfile(as_it_is, out)
        return sha256_of_file(out)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"cannot write {out}: {error}") from error


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
