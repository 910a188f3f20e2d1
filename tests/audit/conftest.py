"""A recorded run whose updates are kept, and the commands run in this process."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from flserver.audit.report import Report
from flserver.audit.verify import Verification
from flserver.settings.places import Place
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


def verified(db: Place) -> dict[str, Any]:
    """What verify says of the database, without its checkpoints, as JSON has it."""
    verification, report = Verification(db, with_checkpoints=False), Report()
    for finding in verification.run():
        report.add(finding)
    return report.as_json(verification.facts)
