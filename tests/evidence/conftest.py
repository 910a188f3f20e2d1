"""A record, bundles of it, and ``verify.py`` run in this process."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flserver.evidence import verify
from flserver.evidence.make import Asked, make
from flserver.heads.model_keys import ModelKey
from tests.cli.conftest import flserver as flserver
from tests.evidence.record import LOG, write_record

Verdict = tuple[int, str]
"""The exit code, and what is printed."""
Verifies = Callable[..., Verdict]


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evidence")
    write_record(folder)
    ModelKey.generate().write(folder / "models.key")
    return folder


@pytest.fixture
def db(recorded: Path, tmp_path: Path) -> Path:
    """A copy that the test may spoil."""
    return Path(shutil.copytree(recorded, tmp_path / "here")) / "runs.sqlite"


@pytest.fixture(scope="session")
def bundle(recorded: Path) -> bytes:
    """Of the run, with its model and a signature of it."""
    out = recorded / "night.zip"
    key = ModelKey.load(recorded / "models.key", "--model-key")
    make(recorded / "runs.sqlite", out, Asked(run="night", model_key=key, model=True))
    return out.read_bytes()


@pytest.fixture
def verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Verifies:
    """What verify.py says of these bytes, under the key that signs the record's heads or what is given."""

    def run(data: bytes, *options: object, key: bool = True) -> Verdict:
        path = tmp_path / "it.zip"
        path.write_bytes(data)
        under = ["--key", str(LOG.public)] if key else []
        try:
            code = verify.main([str(path), *under, *map(str, options)])
        except SystemExit as left:
            code = int(str(left.code))
        said = capsys.readouterr()
        return code, said.out + said.err

    return run
