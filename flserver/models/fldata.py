"""The trainers' data files: for each client one for training and one for testing, in the form of LEAF.

    {"user_data": {"writer 1": {"x": [[784 numbers from 0 to 1], …], "y": [class numbers, …]}, …}}

The users of a file are joined; LEAF's other keys are not needed. LEAF leaves users behind that have no samples (when it
splits off the test data, say), and whole files of them: beside others that have some they are left out, with a warning.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flserver.errors import UsageError, one_line
from flserver.text import printable

logger = logging.getLogger(__name__)

Data = tuple[Tensor, Tensor]
FEATURES = 784
MOST_NAMES = 10  # users or files that one line names; the others are counted


def data_file(data_dir: Path | None, split: str, client_id: str) -> Path:
    """Where the file of a client lies; ``split`` is ``train`` or ``test``, ``data_dir`` None is the default folder."""
    return (data_dir or Path("FLdata")) / split / f"mnist_{split}_client{client_id}.json"


def read_files(paths: Sequence[Path]) -> Data:
    """The samples of one or more files: ``x``, float32 (N, 784), and ``y``, int64 (N,); N is not 0.

    Raises UsageError, one line with the file and the user, where one cannot be read or none holds samples.
    """
    found = {path: _read_file(path) for path in paths}
    parts = [part for of_file in found.values() for part in of_file]
    without = [str(path) for path, of_file in found.items() if not of_file]
    told = f"{_named(without)} {'holds' if len(without) == 1 else 'hold'} no samples"
    if not parts:
        raise UsageError(told)
    if without:
        logger.warning("%s: left out", told)
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def _read_file(path: Path) -> list[Data]:
    """The samples of each user that has some."""
    parts, without = [], []
    for user, samples in _users(path).items():
        part = _samples(samples, f"{path}: user {printable(user)}")
        if part is None:
            without.append(printable(user))
        else:
            parts.append(part)
    if parts and without:
        logger.warning("%s holds no samples of user %s: left out", path, _named(without))
    return parts


def _users(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        elsewhere = "; --data-dir names another folder, --dataset other data"
        raise UsageError(f"cannot read {path}: {error.strerror}{elsewhere}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not the JSON of a data file: {one_line(error)}") from error
    users = content.get("user_data") if isinstance(content, dict) else None
    if not isinstance(users, dict):
        raise UsageError(f'{path} is not of the form {{"user_data": {{"0": {{"x": [[…]], "y": […]}}}}}}')
    return users


def _samples(samples: Any, whose: str) -> Data | None:
    """The samples of one user, None where there are none. Raises UsageError that begins with ``whose``."""
    if not (isinstance(samples, dict) and isinstance(samples.get("x"), list) and isinstance(samples.get("y"), list)):
        raise UsageError(f'{whose}: not of the form {{"x": [[…]], "y": […]}}')
    if not samples["x"] and not samples["y"]:
        return None
    try:
        # float64 first, because labels may be written as floats and must still be whole numbers
        x, y = np.array(samples["x"], np.float32), np.array(samples["y"], np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(f"{whose}: x or y is no array of numbers: {one_line(error)}") from error
    if x.shape[1:] != (FEATURES,) or y.shape != x.shape[:1]:
        raise UsageError(f"{whose}: x of shape {x.shape} and y of shape {y.shape}, not (N, {FEATURES}) and (N,)")
    if not (np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1):
        raise UsageError(f"{whose}: x is not from 0 to 1")
    if not (np.isfinite(y).all() and (y >= 0).all() and (y == np.rint(y)).all()):
        raise UsageError(f"{whose}: y holds something else than class numbers")
    return torch.from_numpy(x), torch.from_numpy(y.astype(np.int64))


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
