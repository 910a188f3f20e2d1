"""Every command that reads works on the record that a killed server left, where nothing can be written."""

import json
import shutil
from pathlib import Path

import pytest

from flserver.store.writer import Writer
from tests.cli.conftest import COUNT
from tests.nobody import as_nobody
from tests.recorded_run import RUN
from tests.store import story

IMPORTS = """
import json
import flserver.audit.export, flserver.audit.verify
from flserver.cli.main import run_cli
"""
RUN_IT = """
sys.exit(run_cli(json.loads(sys.argv[2])))
"""


@pytest.fixture
def left(db: Path, public: Path) -> Path:
    """The record of two runs and of a third that began before the server was killed, with its checkpoints."""
    writer = Writer(db, run_id="third", process_id=3)
    writer.start(**story.QUIET)
    for event in story.started("third", 3, "third"):
        writer.emit(event)
    writer.flush()
    for end in ("", "-wal"):
        shutil.copy(f"{db}{end}", public)
    writer.close()
    shutil.copytree(f"{db}.checkpoints", public / "runs.sqlite.checkpoints")
    (public / "out").mkdir()
    for place in public.rglob("*"):  # as an auditor's copies are
        place.chmod(0o755 if place.is_dir() else 0o644)
    (public / "out").chmod(0o777)
    public.chmod(0o555)
    return public / "runs.sqlite"


def said(left: Path, *arguments: object) -> str:
    """What the command prints; it leaves nothing beside the database."""
    before = sorted(left.parent.iterdir())
    answer = as_nobody(RUN_IT, left, json.dumps(["--db", str(left), *map(str, arguments)]), imports=IMPORTS)
    assert sorted(left.parent.iterdir()) == before
    return answer


def test_every_command_that_reads_works_on_a_read_only_medium(left: Path) -> None:
    assert "third" in said(left, "runs")
    assert "night  completed" in said(left, "show", "night")
    assert said(left, *COUNT) == "n\n3\n"
    assert "all 5 hold" in said(left, "verify")
    assert json.loads(said(left, "db", "check"))["at_head"] is True
    assert "round 3 of run night" in said(left, "export-model", RUN, "--out", left.parent / "out" / "last.pt")
