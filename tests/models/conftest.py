"""A run's checkpoints in a folder of the test's own."""

from pathlib import Path

import pytest

from flserver.models.checkpoint import CheckpointStore


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    store = CheckpointStore(tmp_path / "checkpoints", "run-1")
    store.prepare()
    return store
