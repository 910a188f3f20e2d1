"""Checkpoints on a disk: a file has its name once its bytes are durable."""

import logging
import os
from functools import partial
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING

from flserver.clock import monotonic
from flserver.errors import CheckpointError, UsageError, one_line
from flserver.files import check_makeable, create, make_folders, sync_folder
from flserver.models.checkpoints import Checkpoints, Written, beside
from flserver.models.digests import NAME, located, sha256_of
from flserver.models.durable import write_durably
from flserver.models.stored import free_space
from flserver.text import printable

if TYPE_CHECKING:  # a start looks at the place before torch is there
    from flserver.models.state import State

logger = logging.getLogger(__name__)


class CheckpointStore(Checkpoints):
    """The files of one run, in a folder of its own below ``directory``, which ``group`` may read (None: the process's
    own)."""

    def __init__(self, directory: Path, run_id: str, group: int | None = None) -> None:
        """Nothing is touched yet: ``directory`` (``--checkpoint-dir``) need not exist.

        Raises CheckpointError where ``run_id``, which a record may name, leads out of it.
        """
        self.directory = directory
        self._run_id = run_id
        self._group = group
        self._folder = directory / run_id
        if self._folder.parent != directory or realpath(self._folder) != os.path.join(realpath(directory), run_id):
            raise CheckpointError(f"{self._folder}, the folder of the run's checkpoints, is not in {directory}")

    def check_place(self) -> None:
        """Raises UsageError where :meth:`prepare` could not make the folder or write to it. Nothing is made."""
        check_makeable(self._folder, "--checkpoint-dir")

    def prepare(self) -> None:
        """Make the folder, durably. Raises UsageError where it cannot be made or written to."""
        try:
            for made in make_folders(self._folder, self._group):
                sync_folder(made.parent)
        except OSError as error:
            raise UsageError(f"--checkpoint-dir: cannot make {self._folder}: {error.strerror}") from error
        if not os.access(self._folder, os.W_OK):
            raise UsageError(f"--checkpoint-dir: {self._folder} cannot be written")

    def write(self, round: int, model: "State", strategy: "State") -> Written:
        """Write the file of ``round``, and return once it would survive a power loss.

        ``strategy`` are the strategy's own tensors (:meth:`flserver.aggregation.Strategy.state`). Raises
        CheckpointError where a tensor has a dtype that no checkpoint can hold, or the file cannot be written. A failed
        fsync is not tried again: the kernel may have dropped the pages.
        """
        from flserver.models.checkpoint_format import serialize

        started, temporary = monotonic(), self._folder / f".round-{round:06d}.partial"
        pieces = list(serialize(model, strategy))
        size = sum(map(len, pieces))
        try:
            # The digest is as much work as the write; it is done by another processor meanwhile.
            with beside(size, "checkpoint-digest", partial(sha256_of, pieces)) as hashing:
                temporary.unlink(missing_ok=True)
                write_durably(create(temporary, self._group), pieces)
                digest = hashing.result()
            name = f"round-{round:06d}-{digest.removeprefix('sha256:')[:16]}.safetensors"
            os.rename(temporary, self._folder / name)
            sync_folder(self._folder)
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint of round {round} cannot be written: {self._folder}: {error.strerror} ({self._room()})"
            ) from error
        return Written(f"{self._run_id}/{name}", digest, size, monotonic() - started)

    def files(self) -> dict[Path, int]:
        """Each checkpoint file of the run, with the round in its name; empty where there is no folder."""
        if not self._folder.is_dir():
            return {}
        return {p: int(m[1]) for p in sorted(self._folder.iterdir()) if (m := NAME.fullmatch(p.name))}

    def clean(self, committed: int) -> None:
        """Remove what a crash left of the round after ``committed``. Raises CheckpointError as :meth:`check` does."""
        self.check(committed)
        left = [path for path, round in self.files().items() if round == committed + 1]
        try:
            for path in (*left, *self._folder.glob(".round-*.partial")):
                path.unlink()
        except OSError as error:
            raise CheckpointError(f"{path}, which a crash left, cannot be removed: {error.strerror}") from error

    def _room(self) -> str:
        try:
            return f"{free_space(self._folder) / 2**20:,.1f} MiB free"
        except OSError as error:
            return str(error.strerror)

    def delete(self, path: str) -> None:
        """Delete the run's file at ``path``, below the checkpoint directory. It may be gone already; where it cannot be
        deleted, that is logged, because it costs disk and not the run."""
        try:
            place = located(self.directory, path)
            if place.parent != self._folder.resolve():
                raise CheckpointError("it is another run's")
            place.unlink(missing_ok=True)
        except (OSError, CheckpointError) as error:
            logger.warning("checkpoint %s could not be deleted: %s", printable(path), one_line(error))
