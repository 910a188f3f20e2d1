"""Checkpoints in an object store: one object a round, under the name that a file on a disk would have.

The store holds what it is given against the SHA-256 that is sent with it. One that does not is found out at the start:
from it each checkpoint is read back whole.
"""

import errno
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flserver import buckets
from flserver.clock import monotonic
from flserver.errors import CheckpointError, UsageError, one_line
from flserver.models.checkpoints import Checkpoints, Written
from flserver.models.digests import NAME, located, sha256_of, sha256_of_file
from flserver.settings.folders import ObjectPath
from flserver.text import printable

if TYPE_CHECKING:
    from flserver.models.state import State

logger = logging.getLogger(__name__)

PROBE = ".flserver-probe"


class CheckpointObjects(Checkpoints):
    """Those of one run, below ``directory``. A store that cannot just now is asked again for ``patience`` seconds."""

    def __init__(self, directory: ObjectPath, run_id: str, patience: float) -> None:
        """Nothing is asked yet. Raises CheckpointError where ``run_id`` leads elsewhere."""
        if not run_id or "/" in run_id or run_id in (".", ".."):
            raise CheckpointError(f"{printable(run_id)} is no name for a folder of checkpoints below {directory}")
        self.directory = directory
        self._run_id = run_id
        self._folder = directory / run_id
        self._patience = patience
        self._trusted = False  # whether the store is known to check what it gets

    def check_place(self) -> None:
        try:
            buckets.look(self._folder)
        except OSError as error:
            raise UsageError(f"--checkpoint-dir {self.directory}: {error.strerror}") from error

    def prepare(self) -> None:
        try:
            self._trusted = buckets.refuses_other_bytes(self._folder / PROBE)
        except OSError as error:
            raise UsageError(f"--checkpoint-dir {self.directory} cannot be written: {error.strerror}") from error
        if not self._trusted:
            logger.info(
                "%s does not check the SHA-256 of what it is given: each checkpoint is read back", self.directory
            )

    def write(self, round: int, model: "State", strategy: "State") -> Written:
        from flserver.models.checkpoint_format import serialize

        started, what = monotonic(), f"the checkpoint of round {round}"
        pieces = list(serialize(model, strategy))
        digest = sha256_of(pieces)
        name = f"round-{round:06d}-{digest.removeprefix('sha256:')[:16]}.safetensors"
        put(self._folder / name, pieces, digest, what, self._patience, trusted=self._trusted)
        return Written(f"{self._run_id}/{name}", digest, sum(map(len, pieces)), monotonic() - started)

    def files(self) -> dict[ObjectPath, int]:
        try:
            names, _ = buckets.listed(self._folder)
        except OSError as error:
            raise CheckpointError(f"checkpoints in {self._folder}: {error.strerror}") from error
        return {self._folder / name: int(m[1]) for name in names if (m := NAME.fullmatch(name))}

    def clean(self, committed: int) -> None:
        self.check(committed)
        left = [place for place, round in self.files().items() if round == committed + 1]
        place = self._folder
        try:
            for place in left:
                buckets.remove(place)
        except OSError as error:
            raise CheckpointError(f"{place}, which a crash left, cannot be removed: {error.strerror}") from error
        try:
            buckets.abort_uploads(self._folder)
        except OSError as error:  # not every store has uploads in parts, and they cost room only
            logger.debug("uploads in parts that a crash left in %s cannot be looked for: %s", place, error.strerror)

    def delete(self, path: str) -> None:
        try:
            place = located(self.directory, path)
            if place.parent != self._folder:
                raise CheckpointError("it is another run's")
            buckets.remove(place)
        except (OSError, CheckpointError) as error:
            logger.warning("checkpoint %s could not be deleted: %s", printable(path), one_line(error))


def put(
    place: ObjectPath, pieces: Sequence[bytes | memoryview], digest: str, what: str, patience: float, *, trusted: bool
) -> None:
    """Put a file of that ``digest`` (``sha256:hex``) there, ``what`` it is; where the store is not ``trusted`` to have
    checked it, it is read back. Raises CheckpointError."""
    sha256 = bytes.fromhex(digest.removeprefix("sha256:"))

    def once() -> None:
        checked = buckets.put(place, pieces, sha256)
        if not (checked and trusted) and sha256_of_file(place) != digest:
            raise buckets.Unreachable(errno.EIO, "what it has is not what it was given", str(place))

    try:
        buckets.patiently(once, what, patience)
    except OSError as error:
        raise CheckpointError(f"{what} cannot be written: {place}: {error.strerror}") from error
