"""Writes data files as the trainers in the field have them, from scikit-learn's digits."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits


def write_fldata(
    folder: Path, ids: Sequence[int | str], samples: int | None = None, float_labels: bool = False
) -> Path:
    """Deal the digits, scaled to 28×28, out to ``ids`` and return ``folder``.

    Of each client's share a fifth is its test file, the rest (at most ``samples``) its training file. The deal depends
    on the number of ids alone.
    """
    digits = load_digits()
    nearest = np.arange(28) * 8 // 28
    images = (digits.images / 16)[:, nearest][:, :, nearest].reshape(-1, 784)
    order = np.random.RandomState(1).permutation(len(images))
    for client_id, share in zip(ids, np.array_split(order, len(ids)), strict=True):
        held_out = len(share) // 5
        for split, chosen in (("test", share[:held_out]), ("train", share[held_out:][:samples])):
            labels = digits.target[chosen].astype(float if float_labels else int)
            user = {"x": images[chosen].round(4).tolist(), "y": labels.tolist()}
            path = folder / split / f"mnist_{split}_client{client_id}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"user_data": {"0": user}}))
    return folder
