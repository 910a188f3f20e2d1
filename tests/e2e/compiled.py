"""Arithmetic that other tests have compiled, for a server whose cache is its own: it takes half a minute each time."""

import hashlib
import shutil
from pathlib import Path

from flserver.aggregation import kernel
from flserver.files import own_cache

HERE = Path(kernel.__file__).parent


def compiled_before(cache: Path, package: Path = HERE.parent) -> None:
    """Make ``cache``, for ``XDG_CACHE_HOME``, with what is compiled of ``package``: it is ours, or a copy of that, with
    the times of its files."""
    kernel.load()
    (cache / "flserver").mkdir(mode=0o700, parents=True)
    if (own := own_cache("flserver")) is not None:
        kept = Path(shutil.copytree(own / kernel._version(), cache / "flserver" / kernel._version()))
        if (kept / _named(HERE)).is_dir():
            (kept / _named(HERE)).rename(kept / _named(package / HERE.name))


def _named(folder: Path) -> str:
    """What numba calls the part of its cache that is of this folder; where it has another name, it compiles."""
    return f"{folder.name}_{hashlib.sha1(str(folder).encode(), usedforsecurity=False).hexdigest()}"
