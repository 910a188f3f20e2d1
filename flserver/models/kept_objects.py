"""Kept updates in an object store: an object each, under the name that a file on a disk would have."""

import logging
from collections.abc import Callable, Collection
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING

from flserver import buckets
from flserver.errors import CheckpointError, one_line
from flserver.models.checkpoint_objects import put
from flserver.models.digests import sha256_of
from flserver.models.kept import FOLDER, NAME, Kept, read_kept
from flserver.settings.folders import ObjectPath

if TYPE_CHECKING:  # a start looks at the place before torch is there
    from flserver.models.state import State

logger = logging.getLogger(__name__)


class KeptObjects(Kept):
    """Those of one run. A store that cannot just now is asked again for ``patience`` seconds."""

    def __init__(self, directory: ObjectPath, run_id: str, rounds: int, patience: float) -> None:
        super().__init__(rounds)
        self._directory = directory
        self._folder = directory / run_id / "updates"
        self._patience = patience
        self._lock = Lock()  # guards _pending
        self._pending: dict[int, ObjectPath] = {}  # of the running attempt, by update_id

    def keep(self, round: int, update_id: int, tensors: "State", digest: str) -> None:
        from flserver.models.checkpoint_format import serialize

        place = self._place_of(round, digest)
        pieces = list(serialize(tensors, {}))
        # Nobody goes on from it: the answer's word is enough that it has what it was given, as with a disk.
        put(place, pieces, sha256_of(pieces), f"update {update_id}", self._patience, trusted=True)
        with self._lock:
            self._pending[update_id] = place

    def note(self, round: int, update_id: int, digest: str) -> None:
        with self._lock:
            self._pending[update_id] = self._place_of(round, digest)

    def again(self, round: int, digest: str, digest_of: "Callable[[State], str]") -> "State":
        return read_kept(self._directory, self._place_of(round, digest).below(self._directory), digest_of)

    def settle(self, round: int, accepted: Collection[int]) -> dict[int, str]:
        with self._lock:
            pending, self._pending = self._pending, {}
        staying = {update_id: pending[update_id] for update_id in accepted}
        folder = self._folder_of(round)

        def once() -> None:
            there = {folder / name for name in buckets.listed(folder)[0]}
            for place in there - set(staying.values()):
                buckets.remove(place)

        try:
            buckets.patiently(once, f"the updates of round {round}", self._patience)
        except OSError as error:
            raise CheckpointError(f"cannot keep the updates of round {round}: {error.strerror}") from error
        return {update_id: place.below(self._directory) for update_id, place in staying.items()}

    def forget(self, round: int) -> None:
        with self._lock:
            self._pending.clear()
        self.delete(round)

    def on_disk(self) -> list[int]:
        _, folders = self._listed(self._folder)
        return sorted(int(match[1]) for name in folders if (match := FOLDER.fullmatch(name)))

    def files(self) -> list[str]:
        found = []
        for round in self.on_disk():
            folder = self._folder_of(round)
            names, _ = self._listed(folder)
            found += [(folder / name).below(self._directory) for name in names if NAME.fullmatch(name)]
        return found

    def delete(self, round: int) -> None:
        folder = self._folder_of(round)
        try:
            for name in buckets.listed(folder)[0]:
                if NAME.fullmatch(name):
                    buckets.remove(folder / name)
        except OSError as error:
            logger.warning("the kept updates in %s could not be deleted: %s", folder, one_line(error))

    def _listed(self, folder: ObjectPath) -> tuple[list[str], list[str]]:
        try:
            return buckets.patiently(partial(buckets.listed, folder), "the kept updates", self._patience)
        except OSError as error:
            raise CheckpointError(f"kept updates in {folder}: {error.strerror}") from error

    def _folder_of(self, round: int) -> ObjectPath:
        return self._folder / f"round-{round:06d}"

    def _place_of(self, round: int, digest: str) -> ObjectPath:
        return self._folder_of(round) / f"{digest.removeprefix('blake3:')}.safetensors"
