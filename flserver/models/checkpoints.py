"""Checkpoints, wherever they lie: one safetensors file a round, durable before the round is committed.

A file holds tensors and fixed metadata only, so that equal states give equal bytes and equal digests. The digest is
SHA-256 of the file's bytes: ``sha256sum`` checks it. The strategy's own tensors carry a prefix that no parameter has.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from flserver.errors import CheckpointError
from flserver.models.digests import located
from flserver.settings.folders import Folder, ObjectPath

if TYPE_CHECKING:  # a start looks at the place before torch is there
    from flserver.models.state import State

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


class Checkpoints(ABC):
    """The files of one run, in a folder of its own below ``directory`` (``--checkpoint-dir``)."""

    directory: Folder

    @abstractmethod
    def check_place(self) -> None:
        """Raises UsageError where :meth:`prepare` would. Nothing is made."""

    @abstractmethod
    def prepare(self) -> None:
        """Make ready to write. Raises UsageError where nothing can be written."""

    @abstractmethod
    def write(self, round: int, model: "State", strategy: "State") -> Written:
        """Write the file of ``round``, and return once it would survive a power loss.

        ``strategy`` are the strategy's own tensors (:meth:`flserver.aggregation.Strategy.state`). Raises
        CheckpointError where a tensor has a dtype that no checkpoint can hold, or the file cannot be written.
        """

    @abstractmethod
    def files(self) -> Mapping[Any, int]:
        """The place of each checkpoint file of the run, with the round in its name; empty where there is no folder."""

    @abstractmethod
    def clean(self, committed: int) -> None:
        """Remove what a crash left of the round after ``committed``. Raises CheckpointError as :meth:`check` does."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete the run's file at ``path``, below the checkpoint directory. It may be gone already; where it cannot be
        deleted, that is logged, because it costs room and not the run."""

    @contextmanager
    def writing(self, round: int, model: "State", strategy: "State") -> Iterator["Future[Written]"]:
        """:meth:`write` while the block runs, which may read the tensors and not change them. What is yielded has its
        outcome when the block is over."""
        size = sum(tensor.nbytes for tensor in (*model.values(), *strategy.values()))
        with beside(size, "checkpoint", partial(self.write, round, model, strategy)) as future:
            yield future

    def read(self, path: str, digest: str | None) -> "tuple[State, State]":
        """Read the model's and the strategy's tensors from the file at ``path``, below the checkpoint directory.

        Raises CheckpointError where the file is missing, has another digest than ``digest`` (None: any) or is no
        checkpoint, or where ``path`` leads elsewhere.
        """
        from flserver.models.checkpoint_format import read

        return read(located(self.directory, path), digest)

    def check(self, committed: int) -> None:
        """Raises CheckpointError where a file is from a round that a crash after round ``committed``, the last one in
        the database (-1: none), does not leave: then the database lacks commits."""
        ahead = [path for path, round in self.files().items() if round >= committed + 2]
        if ahead:
            raise CheckpointError(
                f"{ahead[0]} is from a round after {committed + 1}, but the database's last committed round is "
                f"{committed}: the database lacks commits. Put the newer database back, with its -wal file, or move "
                f"the newer checkpoints away to go on from round {committed}"
            )


def checkpoints_in(directory: Folder, run_id: str, group: int | None = None, patience: float = 0.0) -> Checkpoints:
    """Those of the run ``run_id`` below ``directory``, which ``group`` may read on a disk; an object store that fails
    is asked again for ``patience`` seconds. Nothing is touched yet.

    Raises CheckpointError where ``run_id``, which a record may name, leads out of it.
    """
    if isinstance(directory, ObjectPath):
        from flserver.models.checkpoint_objects import CheckpointObjects

        return CheckpointObjects(directory, run_id, patience)
    from flserver.models.checkpoint import CheckpointStore

    return CheckpointStore(directory, run_id, group)


@contextmanager
def beside(size: int, name: str, work: Callable[[], Result]) -> Iterator["Future[Result]"]:
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
