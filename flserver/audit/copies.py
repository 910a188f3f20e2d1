"""Checkpoints and kept updates that a record names, copied from where they lie to another folder, and held against
their digests."""

import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from io import RawIOBase
from pathlib import Path

from flserver.errors import CheckpointError, UsageError
from flserver.files import create, make_folders, open_regular, sync_folder
from flserver.models.digests import NAME, located, sha256_of_file
from flserver.models.kept import NAME as KEPT
from flserver.models.kept_files import check_kept_file
from flserver.models.stored import opened
from flserver.settings.folders import Folder
from flserver.store.reader import Reader, Row
from flserver.text import printable

PIECE = 1 << 20  # bytes
HELD = 500  # files of a run held open: more than any sensible --keep-checkpoints

Source = tuple[Row, Folder]
"""A run (a row of v1_runs), and where its checkpoints lie."""


class Copies:
    """The checkpoints in ``folder``, in which each run has a folder of its own.

    ``copied`` and ``bytes`` say how many were copied, ``problems`` what is wrong with what is there now, a line each.
    """

    def __init__(self, folder: Path, *, replaces: bool = True) -> None:
        """``replaces`` says whether a file that is not what the record says is copied over; else it is an error."""
        self._replaces = replaces
        self._folder = folder.resolve()  # as ``located`` gives paths
        self._made: set[Path] = set()
        self._named: set[Path] = set()
        self._open = ExitStack()
        self._held: dict[Folder, RawIOBase] = {}
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
        self._named, self.problems = set(), []
        missing: list[str] = []
        for run, folder in sources:
            for row in reader.committed_rounds(run["run_id"]):
                if row["checkpoint_deleted_at"] is not None:
                    continue
                where = f"run {run['name']} round {row['round']}"
                self._take(folder, row["checkpoint"], NAME, where, missing, row)
            for row in reader.kept_updates(run["run_id"]):
                where = f"run {run['name']} round {row['answers_round']} client {printable(row['client_id'])}"
                self._take(folder, row["kept"], KEPT, where, missing)
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
        for named, files in ((NAME, "*/*"), (KEPT, "*/updates/*/*")):
            for path in list(self._folder.glob(files)):
                if named.fullmatch(path.name) and path not in self._named:
                    path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of what is held."""
        self._open.close()

    def undo(self) -> None:
        """Remove what was copied."""
        for path in self._made:
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self._folder or any(folder.iterdir()):
                    break
                folder.rmdir()
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _take(
        self, folder: Folder, path: str, named: re.Pattern[str], where: str, missing: list[str], row: Row | None = None
    ) -> None:
        """Copy the file that the record calls ``path``; with ``row``, its round, it is a checkpoint."""
        try:
            source, target = located(folder, path, named), located(self._folder, path, named)
            if target not in self._made and not self._stands(target, row):
                digest = self._read(source, target)
                if (said := _wrong(target, digest, row)) is not None:
                    self._changed[target] = f"{where}: {source} {said}"
            self._named.add(target)
        except CheckpointError as error:
            missing.append(f"{where}: {error}")

    def _stands(self, target: Path, row: Row | None) -> bool:
        """Whether it is there already, and is what the record says."""
        if not target.is_file():
            return False
        wrong = _wrong(target, sha256_of_file(target) if row else "", row)
        if wrong is not None and not self._replaces:
            raise UsageError(f"{target} is there already, and is not what the record says: move it away")
        return wrong is None

    def _read(self, source: Folder, target: Path) -> str:
        file = self._held.get(source)
        if file is None:
            try:
                file = opened(source)
            except OSError as error:
                raise CheckpointError(f"{source}: {error.strerror}") from error
        with file:
            return self._copy(file, target)

    def _copy(self, source: RawIOBase, target: Path) -> str:
        """Copy an open file, durably. Returns its digest (``sha256:hex``)."""
        make_folders(target.parent)
        beside, digest = target.with_name(f".{target.name}.partial"), hashlib.sha256()
        beside.unlink(missing_ok=True)
        with os.fdopen(create(beside), "wb", buffering=0) as file:
            while piece := source.read(PIECE):
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


def _wrong(copy: Path, digest: str, row: Row | None) -> str | None:
    """What is wrong with a copy: of a checkpoint with that SHA-256, of the round ``row``, or, without one, of a kept
    update. None: it is what the record says."""
    if row is not None:
        return None if digest == row["model_digest"] else f"is {digest}, and the record says {row['model_digest']}"
    try:
        check_kept_file(copy)
    except CheckpointError:
        return "was changed: it is not what its name says"
    return None
