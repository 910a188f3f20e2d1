"""A recorded run whose updates are kept, and the commands run in this process."""

import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import flserver as flserver
from tests.kept_run import write_kept


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    write_kept(folder / "runs.sqlite")
    return folder


@pytest.fixture
def db(recorded: Path, tmp_path: Path) -> Path:
    """A copy that the test may spoil."""
    return Path(shutil.copytree(recorded, tmp_path / "here")) / "runs.sqlite"
