"""A recorded database, and the commands run in this process."""

import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flserver.cli.main import run_cli
from flserver.store.schema import ensure_head
from tests.nobody import public as public
from tests.recorded_run import write_database
from tests.store import story

ROOT = Path(__file__).parents[2]
COUNT = ("query", "SELECT COUNT(*) AS n FROM v1_runs", "--format", "csv")
Answer = tuple[int, str, str]
Run = Callable[..., Answer]


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    write_database(folder / "runs.sqlite")
    return folder


@pytest.fixture
def db(recorded: Path, tmp_path: Path) -> Path:
    """A copy that the test may spoil."""
    return Path(shutil.copytree(recorded, tmp_path / "here")) / "runs.sqlite"


@pytest.fixture(scope="session")
def _story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("story") / "runs.sqlite"
    ensure_head(path)
    story.write(path, story.whole_run())
    return path


@pytest.fixture
def story_db(_story: Path, tmp_path: Path) -> Path:
    """A copy of the record of ``story.whole_run``."""
    return Path(shutil.copy(_story, tmp_path / "story.sqlite"))


@pytest.fixture
def flserver(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs a command in this process: (exit code, standard output, standard error)."""
    for name in [name for name in os.environ if name.startswith("FLSERVER_")]:
        monkeypatch.delenv(name)

    def call(*arguments: object, stdin: str = "") -> Answer:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = run_cli([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


def refused(answer: Answer, reason: str, code: int = 2) -> None:
    """One line on standard error, nothing else, and the exit code."""
    assert (answer[0], answer[1]) == (code, "")
    assert answer[2].startswith("flserver: ")
    assert answer[2].count("\n") == 1
    assert reason in answer[2]


def lines(answer: Answer) -> list[str]:
    assert (answer[0], answer[2]) == (0, "")
    return answer[1].splitlines()


def spoil(db: Path, run_id: str, round: int) -> None:
    """One changed bit in a checkpoint's last tensor."""
    (file,) = db.with_name("runs.sqlite.checkpoints").glob(f"{run_id}/round-{round:06d}-*")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
