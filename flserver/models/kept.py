"""Kept updates: what a round was averaged of, as files beside the checkpoints, also in an object store. The most
telling files that there are.

Each is a safetensors file ``<run_id>/updates/round-000012/<hex>.safetensors``, with the tensors as they were added,
under the model's names; ``hex`` is their digest, so that it shows what was changed. Of an update that came in the
model's names and dtypes it is the ``update_digest``.

Sessions write them on arrival; only those of a round's accepted updates stay. One folder a round: what an aborted
attempt leaves, what a crash leaves, and rounds that need not stay any longer, are folders.
"""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from flserver.errors import CheckpointError, one_line
from flserver.files import make_folders, sync_folder
from flserver.models.digests import located
from flserver.models.durable import write_file
from flserver.models.stored import is_there, opened
from flserver.settings.folders import Folder, ObjectPath

if TYPE_CHECKING:  # a start looks at the place before torch is there
    from flserver.models.state import State

logger = logging.getLogger(__name__)

NAME = re.compile(r"([0-9a-f]{64})\.safetensors")
FOLDER = re.compile(r"round-(\d{6,})")


class Kept(ABC):
    """The kept updates of one run, below ``directory`` (``--checkpoint-dir``). ``rounds`` is how many rounds' stay; 0
    keeps all. ``keep`` is for many threads, the rest for one."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds

    @abstractmethod
    def keep(self, round: int, update_id: int, tensors: "State", digest: str) -> None:
        """Write an update that counts so far in the running attempt at ``round``, whose tensors have that ``digest``
        (``blake3:hex``). Its bytes are durable then, and its name with ``settle``. No tensor is copied that is
        contiguous. Raises CheckpointError."""

    @abstractmethod
    def note(self, round: int, update_id: int, digest: str) -> None:
        """Another process of the run has written it."""

    @abstractmethod
    def again(self, round: int, digest: str, digest_of: "Callable[[State], str]") -> "State":
        """The tensors of an update that was written in the running attempt. Raises as :func:`read_kept`."""

    @abstractmethod
    def settle(self, round: int, accepted: Collection[int]) -> dict[int, str]:
        """Where the updates of these update_ids lie, below the checkpoint directory, durable now; those of the attempt
        that were not accepted are removed. Raises CheckpointError."""

    @abstractmethod
    def forget(self, round: int) -> None:
        """Remove what an attempt at ``round`` left that was aborted."""

    @abstractmethod
    def on_disk(self) -> list[int]:
        """The rounds that have a folder, in ascending order."""

    @abstractmethod
    def files(self) -> list[str]:
        """The updates that have a file, as the record calls them."""

    @abstractmethod
    def delete(self, round: int) -> None:
        """Remove the round's folder with the files of ours in it. Where it cannot be, that is logged: it costs room and
        not the run."""

    def going(self, committed: int) -> list[int]:
        """The rounds whose updates need not stay any longer where ``committed`` is the newest."""
        return [round for round in self.on_disk() if self._rounds and round <= committed - self._rounds]

    def clean(self, kept: Collection[int]) -> None:
        """Remove what a crash left: the folders of rounds but those whose updates are ``kept`` on record."""
        for round in self.on_disk():
            if round not in kept:
                self.delete(round)


def kept_in(directory: Folder, run_id: str, group: int | None = None, rounds: int = 0, patience: float = 0.0) -> Kept:
    """Those of the run ``run_id`` below ``directory``, which ``group`` may read on a disk; an object store that fails
    is asked again for ``patience`` seconds."""
    if isinstance(directory, ObjectPath):
        from flserver.models.kept_objects import KeptObjects

        return KeptObjects(directory, run_id, rounds, patience)
    return KeptUpdates(directory, run_id, group, rounds)


class KeptUpdates(Kept):
    """Those on a disk, below ``directory``, which ``group`` may read."""

    def __init__(self, directory: Path, run_id: str, group: int | None = None, rounds: int = 0) -> None:
        super().__init__(rounds)
        self._directory = directory
        self._folder = directory / run_id / "updates"
        self._group = group
        self._lock = Lock()  # guards _pending and _made, and that folders are made once
        self._pending: dict[int, Path] = {}  # of the running attempt, by update_id
        self._made: set[Path] = set()  # folders whose names are not durable yet

    def keep(self, round: int, update_id: int, tensors: "State", digest: str) -> None:
        from flserver.models.checkpoint_format import serialize

        folder, place = self._folder_of(round), self._place_of(round, digest)
        try:
            with self._lock:
                self._made |= {made.parent for made in make_folders(folder, self._group)}
            # Two clients may send the same tensors at once: each writes its own file, and either is the one that stays.
            write_file(folder / f".{update_id}.partial", place, serialize(tensors, {}), self._group)
        except OSError as error:
            raise CheckpointError(f"cannot keep update {update_id} as {place}: {error.strerror}") from error
        with self._lock:
            self._pending[update_id] = place

    def note(self, round: int, update_id: int, digest: str) -> None:
        with self._lock:
            self._pending[update_id] = self._place_of(round, digest)
            self._made |= {self._folder, self._folder.parent}

    def again(self, round: int, digest: str, digest_of: "Callable[[State], str]") -> "State":
        path = self._place_of(round, digest).relative_to(self._directory)
        return read_kept(self._directory, str(path), digest_of)

    def settle(self, round: int, accepted: Collection[int]) -> dict[int, str]:
        with self._lock:
            pending, self._pending = self._pending, {}
            made, self._made = self._made, set()
        staying = {update_id: pending[update_id] for update_id in accepted}
        folder = self._folder_of(round)
        try:
            if folder.is_dir():
                for path in set(folder.iterdir()) - set(staying.values()):
                    path.unlink()
                for changed in (folder, *sorted(made)):
                    sync_folder(changed)
        except OSError as error:
            raise CheckpointError(f"cannot keep the updates of round {round}: {error.strerror}") from error
        return {update_id: str(path.relative_to(self._directory)) for update_id, path in staying.items()}

    def forget(self, round: int) -> None:
        with self._lock:
            self._pending.clear()
        self.delete(round)

    def on_disk(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        return sorted(int(match[1]) for path in self._folder.iterdir() if (match := FOLDER.fullmatch(path.name)))

    def files(self) -> list[str]:
        found = (path for round in self.on_disk() for path in sorted(self._folder_of(round).iterdir()))
        return [str(path.relative_to(self._directory)) for path in found if NAME.fullmatch(path.name)]

    def delete(self, round: int) -> None:
        folder = self._folder_of(round)
        try:
            if folder.is_dir() and not folder.is_symlink():
                for path in folder.iterdir():
                    if NAME.fullmatch(path.name) or path.name.endswith(".partial"):
                        path.unlink()
                folder.rmdir()
        except OSError as error:
            logger.warning("the kept updates in %s could not be deleted: %s", folder, one_line(error))

    def _folder_of(self, round: int) -> Path:
        return self._folder / f"round-{round:06d}"

    def _place_of(self, round: int, digest: str) -> Path:
        return self._folder_of(round) / f"{digest.removeprefix('blake3:')}.safetensors"


def read_kept(directory: Folder, path: str, digest_of: "Callable[[State], str]") -> "State":
    """The tensors of the update that the record calls ``path``, below the checkpoint directory. They have the digest
    that the path names, as ``digest_of`` makes it. Raises Missing where there is no such file, CheckpointError where
    it is not what it was."""
    from flserver.models.checkpoint_format import read, serialize

    place = located(directory, path, NAME)
    if not is_there(place):
        raise Missing(f"{place} is not there")
    try:
        tensors, _ = read(place, None)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace("checkpoint ", "", 1)) from error
    found, named = digest_of(tensors), "blake3:" + place.stem
    if found != named:
        raise CheckpointError(f"{place} was changed: its tensors have the digest {found}")
    head = next(serialize(tensors, {}))  # equal tensors have equal files
    with opened(place) as file:
        if file.read(len(head)) != head:
            raise CheckpointError(f"{place} was changed: not in its tensors, but in what stands before them")
    return tensors


class Missing(CheckpointError):
    """A file that the record names is not there: it was moved or deleted, which is not to say that it was changed."""
