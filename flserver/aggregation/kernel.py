"""Which loops an exact sum runs: those that numba compiles, or numpy's. The bits are the same.

It is decided once a process, so that a round is as fast as the one before. ``load`` is for whoever starts the process;
else the first sum decides.
"""

import functools
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from flserver import files
from flserver.aggregation import plain
from flserver.aggregation.bins import BLOCK, exponents
from flserver.aggregation.parts import Part, Scratch, own_memory
from flserver.aggregation.rounding import Way

LOOPS = (
    "bins",
    "compiled",
    "compiled_words",
    "compiled_cuts",
    "compiled_mean",
    "compiled_norms",
    "compiled_room",
)  # files whose text makes what is compiled


COMPILING = "compiling the arithmetic, once for these sources and this processor: a minute or two on a busy machine"

logger = logging.getLogger(__name__)


class Loops(Protocol):
    """What a part of a sum is worked on with. ``tensors`` and ``targets`` are the layout's: contiguous, of float32 or
    float64."""

    name: str

    def add(
        self, pieces: np.ndarray, tensors: Sequence[torch.Tensor], n: int, part: Part, done: np.ndarray, back: bool
    ) -> bool:
        """Add n times the numbers of ``tensors`` to ``part``, those of ``pieces`` of its table; |n| below 2²⁹.

        Whether all is done: each block needs as many slots free as there are grids, and twice as many unless something
        is taken ``back``. ``done`` (piece, element) is how far it came, and where it goes on."""

    def short(self, part: Part) -> bool:
        """Whether fewer slots are free than have to be between two updates."""

    def settle(self, part: Part, block: int, scratch: Scratch) -> None:
        """Bring a block into its canonical form."""

    def take(self, part: Part, rows: np.ndarray, numbers: Sequence[torch.Tensor], scratch: Scratch) -> None:
        """Add words and bins as ``cuts.cut`` gives them, whose blocks are the part's."""

    def mean(
        self, part: Part, targets: Sequence[torch.Tensor], ways: Sequence[Way], samples: int, scratch: Scratch
    ) -> None:
        """Round each sum over ``samples`` into ``targets``, in the way of its tensor."""

    def distances(self, one: torch.Tensor, other: torch.Tensor, before: torch.Tensor) -> tuple[float, float]:
        """Σ (one − other)² and Σ (one − other)·(other − before) in float64 of three contiguous tensors of one
        dtype, float32 or float64. The first is not finite where any element of ``one`` is not, and ``other`` is."""


class Plain:
    """The loops in numpy."""

    name = "numpy"

    def add(
        self, pieces: np.ndarray, tensors: Sequence[torch.Tensor], n: int, part: Part, done: np.ndarray, back: bool
    ) -> bool:
        """See :meth:`Loops.add`."""
        return plain.add(pieces, [tensor.view(-1).numpy() for tensor in tensors], n, part, done, back)

    def short(self, part: Part) -> bool:
        """See :meth:`Loops.short`."""
        return bool(part.bins.left[0] < part.kept_free)

    def settle(self, part: Part, block: int, scratch: Scratch) -> None:
        """See :meth:`Loops.settle`."""
        plain.settle(part, block, scratch)

    def take(self, part: Part, rows: np.ndarray, numbers: Sequence[torch.Tensor], scratch: Scratch) -> None:
        """See :meth:`Loops.take`."""
        plain.take(part, rows, [its.numpy() for its in numbers], scratch)

    def mean(
        self, part: Part, targets: Sequence[torch.Tensor], ways: Sequence[Way], samples: int, scratch: Scratch
    ) -> None:
        """See :meth:`Loops.mean`."""
        plain.mean(part, [target.numpy() for target in targets], ways, samples, scratch)

    def distances(self, one: torch.Tensor, other: torch.Tensor, before: torch.Tensor) -> tuple[float, float]:
        """See :meth:`Loops.distances`."""
        return plain.distances(one.view(-1), other.view(-1), before.view(-1))


class Compiled:
    """The loops that numba compiled. Raises ImportError where there is no numba."""

    name = "numba"

    def __init__(self, cache: Path | None) -> None:
        import numba

        if cache is not None:
            numba.config.CACHE_DIR = str(cache / _version())  # type: ignore[attr-defined]
        from numba.core.caching import NullCache

        from flserver.aggregation import compiled_cuts, compiled_mean, compiled_norms, compiled_room, compiled_words

        self._add, self._settle, self._mean = compiled_words.add, compiled_words.settle, compiled_mean.mean
        self._distances, self._short, self._take = compiled_norms.distances, compiled_room.short, compiled_cuts.take
        compiling = (self._add, self._settle, self._mean, self._distances, self._short, self._take)
        self._kinds = {
            "nearest 32": compiled_mean.NEAREST_32,
            "odd 32": compiled_mean.ODD_32,
            "nearest 64": compiled_mean.NEAREST_64,
        }
        if cache is not None:
            for function in compiling:
                function.enable_caching()
        else:
            for function in compiling:
                function._cache = NullCache()
        if cache is None or not all(map(_is_kept, compiling)):
            logger.info(COMPILING)
        # One element through each, so that nobody waits for it later.
        part, number = Part(np.array([[0, 0, 4, 0, 1]]), exponents([torch.float32])), [torch.ones(1)]
        part.make_sure(own_memory)
        self.add(part.pieces, number, 1, part, np.zeros(2, dtype=np.int64), False)
        self.short(part)
        self.take(part, np.zeros((1, 4), dtype=np.int64), [torch.zeros(BLOCK, dtype=torch.int64)], own_memory)
        self.settle(part, 0, own_memory)
        self.mean(part, number, ["nearest 32"], 1, own_memory)
        self.distances(number[0], number[0], number[0])

    def add(
        self, pieces: np.ndarray, tensors: Sequence[torch.Tensor], n: int, part: Part, done: np.ndarray, back: bool
    ) -> bool:
        """See :meth:`Loops.add`."""
        return bool(self._add(_addresses(tensors), pieces, float(n), part.bins, done, back))

    def short(self, part: Part) -> bool:
        """See :meth:`Loops.short`."""
        return bool(self._short(part.bins, part.is_usual))

    def settle(self, part: Part, block: int, scratch: Scratch) -> None:
        """See :meth:`Loops.settle`."""
        while not self._settle(part.bins, block):
            part.grow(scratch)

    def take(self, part: Part, rows: np.ndarray, numbers: Sequence[torch.Tensor], scratch: Scratch) -> None:
        """See :meth:`Loops.take`."""
        place, addresses = np.zeros(1, dtype=np.int64), _addresses(numbers)
        while not self._take(part.bins, rows, addresses, place):
            part.grow(scratch)

    def mean(
        self, part: Part, targets: Sequence[torch.Tensor], ways: Sequence[Way], samples: int, scratch: Scratch
    ) -> None:
        """See :meth:`Loops.mean`."""
        place, addresses = np.zeros(2, dtype=np.int64), _addresses(targets)
        kinds = np.array([self._kinds[ways[which]] for which in part.pieces[:, 0]], dtype=np.int64)
        while not self._mean(addresses, part.pieces, float(samples), kinds, part.bins, place):
            part.grow(scratch)

    def distances(self, one: torch.Tensor, other: torch.Tensor, before: torch.Tensor) -> tuple[float, float]:
        """See :meth:`Loops.distances`."""
        places = one.data_ptr(), other.data_ptr(), before.data_ptr()
        found: tuple[float, float] = self._distances(*places, one.itemsize, one.numel())
        return found


def _addresses(tensors: Sequence[torch.Tensor]) -> np.ndarray:
    return np.array([tensor.data_ptr() for tensor in tensors], dtype=np.int64)


def _is_kept(function: Any) -> bool:
    """Whether numba's cache has something of it."""
    return any(Path(function._cache.cache_path).glob(f"*.{function.__name__}-*.nbi"))


def _version() -> str:
    """What the compiled loops are made of: numba looks at the age of one file only."""
    texts = [Path(__file__).with_name(f"{name}.py").read_bytes() for name in LOOPS]
    return hashlib.sha256(b"".join(texts)).hexdigest()[:16]


@functools.cache
def load() -> Loops:
    """The loops of this process: numba's, compiled or read from the cache, where there is numba. Takes some seconds the
    first time on a machine.

    numba's cache are pickles, so who can write them runs code: it is only in a folder that is this user's alone
    (``files.own_cache``); where there is none, the loops are compiled anew.
    """
    for cache in (files.own_cache("flserver"), None):
        try:
            return Compiled(cache)
        except ImportError:
            break
        except OSError:  # a full disk, say: without the cache
            continue
    return Plain()
