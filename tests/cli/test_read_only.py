"""Every command that reads works on the record that a killed server left, where nothing can be written."""

import json
import shutil
from pathlib import Path

import pytest

from flserver.store.writer import Writer
from tests.cli.conftest import COUNT
from tests.kept_run import write_kept
from tests.nobody import as_nobody
from tests.recorded_run import RUN
from tests.store import story

IMPORTS = """
import json
import encodings.unicode_escape
import flserver.audit.export, flserver.audit.replay, flserver.audit.verify, flserver.report.page
from flserver.cli.main import run_cli
"""
END = "\0"
RUN_THEM = """
for command in json.loads(sys.argv[2]):
    assert run_cli(command) == 0, command
    print(end="\\0", flush=True)
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


def said(left: Path, *commands: tuple[object, ...]) -> list[str]:
    """What each of the commands prints, one after another in one process; they leave nothing beside the database."""
    before = sorted(left.parent.iterdir())
    arguments = [["--db", str(left), *map(str, command)] for command in commands]
    answers = as_nobody(RUN_THEM, left, json.dumps(arguments), imports=IMPORTS).split(END)
    assert sorted(left.parent.iterdir()) == before
    assert answers.pop() == ""
    return answers


def test_every_command_that_reads_works_on_a_read_only_medium(left: Path) -> None:
    export = ("export-model", RUN, "--out", left.parent / "out" / "last.pt")
    evidence = ("evidence", "night", "--out", left.parent / "out" / "night.zip")
    report = ("report", "night", "--out", "-")
    runs, show, count, verified, check, drawn, exported, given = said(
        left, ("runs",), ("show", "night"), COUNT, ("verify",), ("db", "check"), report, export, evidence
    )
    assert drawn.endswith("</html>\n")
    assert "third" in runs
    assert "night  completed" in show
    assert count == "n\n3\n"
    assert "all 9 checks hold" in verified
    assert json.loads(check)["at_head"] is True
    assert "round 3 of run night" in exported
    assert "4 rounds, sha256:" in given


def test_rounds_are_computed_again_on_a_read_only_medium(public: Path) -> None:
    write_kept(public / "runs.sqlite")
    for place in public.rglob("*"):
        place.chmod(0o755 if place.is_dir() else 0o644)
    public.chmod(0o555)
    asked = (("replay", "night"), ("replay", "night", "--without", "10"), ("descendants", "night:2"))
    compared, without, later = said(public / "runs.sqlite", *asked)
    assert "all 2 computed again are as on record" in compared
    assert "without client 10: sha256:" in without
    assert later.count("sha256:") == 3
