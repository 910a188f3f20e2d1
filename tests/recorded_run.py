"""A small database as a server leaves it: two runs with their checkpoints on disk, recorded by the real writer."""

from pathlib import Path
from typing import Any

import torch

from flserver import events as e
from flserver.models.checkpoint import CheckpointStore, Written
from flserver.models.state import State
from flserver.store.schema import ensure_head
from tests import facts
from tests.store import story

RUN, PLAIN = "20260131T090000Z-aaaaaa", "20260201T090000Z-bbbbbb"
SCREEN_CLEARER = "evil\x1b[2J\x07\nsecond line"  # what a peer might call itself


def weights(round: int) -> State:
    return {"fc1.weight": torch.full((2, 3), float(round)), "fc1.bias": torch.arange(2.0)}


def write_database(path: Path) -> None:
    """``night`` (RUN): rounds 0 to 3, the best is 2 and 1 is pruned. ``plain`` (PLAIN), newer: round 0, no metrics."""
    ensure_head(path)
    directory = path.with_name(path.name + ".checkpoints")
    story.write(path, _night(directory), run_id=RUN, process_id=1)
    story.write(path, _plain(directory), run_id=PLAIN, process_id=2)


def _night(directory: Path) -> list[e.Event]:
    store = CheckpointStore(directory, RUN)
    store.prepare()
    files = [store.write(round, weights(round), {"momentum": torch.ones(1)}) for round in range(4)]
    store.delete(files[1].path)
    return [
        *story.started(RUN, 1, "night"),
        *story.registered("1", 1),
        *story.registered(SCREEN_CLEARER, 2),
        *_round(files, 0, loss=2.3, accuracy=0.1),
        *_round(files, 1, loss=0.9, accuracy=0.8),
        *_round(files, 2, loss=0.4, accuracy=0.95),
        *_round(files, 3, loss=0.5, accuracy=0.9),
        facts.checkpoint_deleted(1, checkpoint=files[1].path),
        facts.run_ended("completed", files[3].digest, RUN),
        facts.server_stopped(0, 1),
    ]


def _plain(directory: Path) -> list[e.Event]:
    store = CheckpointStore(directory, PLAIN)
    store.prepare()
    files = [store.write(0, weights(0), {})]
    return [
        *story.started(PLAIN, 2, "plain"),
        *_round(files, 0, process_id=2),
        facts.run_ended("interrupted", files[0].digest, PLAIN),
        facts.server_stopped(3, 2),
    ]


def _round(files: list[Written], number: int, process_id: int = 1, **measured: Any) -> list[e.Event]:
    file = files[number]
    written = {"model_digest": file.digest, "checkpoint": file.path, "checkpoint_bytes": file.size}
    return [facts.attempt(number, process_id=process_id), facts.committed(number, **written, **measured)]
