"""Checkpoints that a record names, copied from where they lie to another folder, and checked on the way."""

import hashlib
import os
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from io import FileIO
from pathlib import Path

from flserver.errors import CheckpointError
from flserver.files import create, make_folders, open_regular, sync_folder
from flserver.models.digests import NAME, located
from flserver.store.reader import Reader, Row

PIECE = 1 << 20  # bytes
HELD = 500  # files of a run held open: more than any sensible --keep-checkpoints

Source = tuple[Row, Path]
"""A run (a row of v1_runs), and where its checkpoints lie."""


class Copies:
    """The checkpoints in ``folder``, in which each run has a folder of its own.

    ``copied`` and ``bytes`` say how many were copied, ``problems`` what is wrong with what is there now, a line each.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()  # as ``located`` gives paths
        self._made: set[Path] = set()
        self._named: set[Path] = set()
        self._open = ExitStack()
        self._held: dict[Path, FileIO] = {}
        self._changed: dict[Path, str] = {}  # what was copied and is not what the record says
        self.copied = self.bytes = 0
        self.problems: list[str] = []

    def hold(self, folder: Path) -> None:
        """Open the files of a run's ``folder`` that would be pruned next: what is pruned now is copied all the same."""
        for path in sorted(folder.glob("round-*"))[:HELD]:
            if path not in self._held:
                with suppress(OSError):
                    self._held[path] = self._open.enter_context(open_regular(path))

    def take(self, reader: Reader, sources: Iterable[Source]) -> list[str]:
        """Copy what the record of ``reader`` names and is not here yet. Returns what could not be read, a line each.

        Raises OSError where a copy cannot be written.
        """
        self._named, self.problems, missing = set(), [], []
        for run, folder in sources:
            for row in reader.committed_rounds(run["run_id"]):
                if row["checkpoint_deleted_at"] is not None:
                    continue
                where = f"run {run['name']} round {row['round']}"
                try:
                    self._take(located(folder, row["checkpoint"]), located(self._folder, row["checkpoint"]), row, where)
                except CheckpointError as error:
                    missing.append(f"{where}: {error}")
        self.problems += [*missing, *(said for path, said in self._changed.items() if path in self._named)]
        return missing

    def finish(self) -> None:
        """Make the copies durable. Raises OSError."""
        for folder in {path.parent for path in self._made}:
            sync_folder(folder)
        if self._made:
            sync_folder(self._folder)
            sync_folder(self._folder.parent)

    def prune(self) -> None:
        """Remove every checkpoint here that the record did not name at last. Raises OSError."""
        for path in self._folder.glob("*/*"):
            if NAME.fullmatch(path.name) and path not in self._named:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of what is held."""
        self._open.close()

    def undo(self) -> None:
        """Remove what was copied."""
        for path in self._made:
            path.unlink(missing_ok=True)
            if not any(path.parent.iterdir()):
                path.parent.rmdir()

    def _take(self, source: Path, target: Path, row: Row, where: str) -> None:
        if target not in self._made and not (target.is_file() and target.stat().st_size == row["checkpoint_bytes"]):
            file = self._held.get(source)
            if file is None:
                try:
                    file = open_regular(source)
                except OSError as error:
                    raise CheckpointError(f"checkpoint {source}: {error.strerror}") from error
            with file:
                digest = self._copy(file.fileno(), target)
            if digest != row["model_digest"]:
                self._changed[target] = f"{where}: {source} is {digest}, and the record says {row['model_digest']}"
        self._named.add(target)

    def _copy(self, source: int, target: Path) -> str:
        """Copy an open file, durably. Returns its digest (``sha256:hex``)."""
        make_folders(target.parent)
        beside, digest = target.with_name(f".{target.name}.partial"), hashlib.sha256()
        beside.unlink(missing_ok=True)
        with os.fdopen(create(beside), "wb", buffering=0) as file:
            while piece := os.read(source, PIECE):
                digest.update(piece)
                rest = memoryview(piece)
                while rest:
                    rest = rest[file.write(rest) :]
                self.bytes += len(piece)
            os.fsync(file.fileno())
        os.rename(beside, target)
        self._made.add(target)
        self.copied += 1
        return f"sha256:{digest.hexdigest()}"
