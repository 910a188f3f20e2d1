"""Checkpoints: one safetensors file a round, durable before the round is committed.

A file holds tensors and fixed metadata only, so that equal states give equal bytes and equal digests. The digest is
SHA-256 of the file's bytes: ``sha256sum`` checks it. The strategy's own tensors carry a prefix that no parameter has.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flserver.clock import monotonic
from flserver.errors import CheckpointError, UsageError, one_line
from flserver.files import create, make_folders, sync_folder
from flserver.models.digests import NAME, located, sha256_of
from flserver.text import printable

if TYPE_CHECKING:  # a start looks at the place before torch is there
    from flserver.models.state import State

logger = logging.getLogger(__name__)

WRITEBACK = 4 << 20  # bytes after which the disk is told to begin
WORTH_A_THREAD = 1 << 20  # bytes: the least to be hashed, or written, beside something else

Result = TypeVar("Result")


@dataclass(frozen=True)
class Written:
    """A durable checkpoint: its path below the checkpoint directory, its digest (``sha256:hex``) and size (bytes), and
    how long it took."""

    path: str
    digest: str
    size: int
    seconds: float


class CheckpointStore:
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
        try:
            existing = next(place for place in (self._folder, *self._folder.absolute().parents) if place.exists())
        except OSError as error:
            raise UsageError(f"--checkpoint-dir: cannot make {self._folder}: {error.strerror}") from error
        if not existing.is_dir():
            raise UsageError(f"--checkpoint-dir: cannot make {self._folder}: {existing} is not a directory")
        if not os.access(existing, os.W_OK):
            raise UsageError(f"--checkpoint-dir: {existing} cannot be written")

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
            with _beside(size, "checkpoint-digest", partial(sha256_of, pieces)) as hashing:
                temporary.unlink(missing_ok=True)
                _write_durably(create(temporary, self._group), pieces)
                digest = hashing.result()
            name = f"round-{round:06d}-{digest.removeprefix('sha256:')[:16]}.safetensors"
            os.rename(temporary, self._folder / name)
            sync_folder(self._folder)
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint of round {round} cannot be written: {self._folder}: {error.strerror} ({self._room()})"
            ) from error
        return Written(f"{self._run_id}/{name}", digest, size, monotonic() - started)

    @contextmanager
    def writing(self, round: int, model: "State", strategy: "State") -> Iterator["Future[Written]"]:
        """:meth:`write` while the block runs, which may read the tensors and not change them. What is yielded has its
        outcome when the block is over."""
        size = sum(tensor.nbytes for tensor in (*model.values(), *strategy.values()))
        with _beside(size, "checkpoint", partial(self.write, round, model, strategy)) as future:
            yield future

    def read(self, path: str, digest: str | None) -> "tuple[State, State]":
        """Read the model's and the strategy's tensors from the file at ``path``, below the checkpoint directory.

        Raises CheckpointError where the file is missing, has another digest than ``digest`` (None: any) or is no
        checkpoint, or where ``path`` leads elsewhere.
        """
        from flserver.models.checkpoint_format import read

        return read(located(self.directory, path), digest)

    def files(self) -> dict[Path, int]:
        """Each checkpoint file of the run, with the round in its name; empty where there is no folder."""
        if not self._folder.is_dir():
            return {}
        return {p: int(m[1]) for p in sorted(self._folder.iterdir()) if (m := NAME.fullmatch(p.name))}

    def check(self, committed: int) -> None:
        """Raises CheckpointError where a file is from a round that a crash after round ``committed``, the last one in
        the database (-1: none), does not leave: then the database has lost commits."""
        ahead = [path for path, round in self.files().items() if round >= committed + 2]
        if ahead:
            raise CheckpointError(
                f"{ahead[0]} is from a round after {committed + 1}, but the database's last committed round is "
                f"{committed}: the database has lost commits. Put the newer database back, with its -wal file, or move "
                f"the newer checkpoints away to go on from round {committed}"
            )

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


@contextmanager
def _beside(size: int, name: str, work: Callable[[], Result]) -> Iterator["Future[Result]"]:
    """Have ``work`` done on ``size`` bytes, while the block runs where that is worth a thread of that ``name``."""
    if size < WORTH_A_THREAD:
        done: Future[Result] = Future()
        try:
            done.set_result(work())
        except Exception as error:
            done.set_exception(error)
        yield done
    else:
        with ThreadPoolExecutor(1, name) as pool:
            yield pool.submit(work)


def free_space(directory: Path) -> int:
    """How many bytes are free on the disk on which ``directory`` lies, or will lie once it is made."""
    existing = next(p for p in (directory, *directory.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free


def _write_durably(file: int, pieces: Iterable[bytes | memoryview]) -> None:
    """Write all ``pieces`` to the new file, close it, and return once it would survive a power loss."""
    begun = at = 0
    try:
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                count = os.write(file, rest[:WRITEBACK])
                rest, at = rest[count:], at + count
                if at - begun >= WRITEBACK:
                    _begin_writeback(file, begun, at - begun)
                    begun = at
        os.fsync(file)
    finally:
        os.close(file)


def write_file(temporary: Path, place: Path, pieces: Iterable[bytes | memoryview], group: int | None = None) -> None:
    """Write a file that is ``place`` once its bytes are durable, by way of ``temporary`` beside it; its name is durable
    with ``sync_folder``. Raises OSError."""
    temporary.unlink(missing_ok=True)
    _write_durably(create(temporary, group), pieces)
    os.rename(temporary, place)


def _begin_writeback(file: int, start: int, size: int) -> None:
    """Let the disk begin with what was written, while more is: the fsync, which alone makes it durable, waits less."""
    if hasattr(os, "posix_fadvise"):  # Linux then starts to write what is dirty; only a hint, so a refusal says nothing
        with suppress(OSError):
            os.posix_fadvise(file, start, size, os.POSIX_FADV_DONTNEED)
