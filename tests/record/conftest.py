"""A recorded database whose second run has clients and updates."""

from pathlib import Path

import pytest

from tests.recorded_run import write_database


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "runs.sqlite"
    write_database(path)
    return path
