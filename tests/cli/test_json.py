"""Every command that reads answers programs in JSON, with the same option."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flserver.cli.main import cli
from tests.cli.conftest import Run
from tests.kept_run import write_kept

READ = ("runs", "show", "query", "compare", "tail", "export", "verify", "replay", "descendants", "check")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kept") / "runs.sqlite"
    write_kept(path)
    return path


def answer(flserver: Run, *arguments: object, code: int = 0) -> Any:
    got, said, _ = flserver(*arguments, "--json")
    assert got == code
    return json.loads(said)


@pytest.mark.parametrize("name", READ)
def test_it_is_the_same_option_everywhere(name: str) -> None:
    assert any("--json" in parameter.opts for parameter in cli.commands[name].params)


def test_the_commands_about_what_a_model_is_made_of(flserver: Run, kept: Path) -> None:
    found = answer(flserver, "--db", kept, "replay", "night")
    assert found["counts"] == {"holds": 2, "differs": 0, "cannot be computed": 0}
    assert [each["finding"] for each in found["rounds"]] == ["holds", "holds"]
    without = answer(flserver, "--db", kept, "replay", "night", "--without", "10")
    assert "without client 10" in without["lines"][0]
    assert [row["round"] for row in answer(flserver, "--db", kept, "descendants", "night:2")] == [3, 0, 1]


def test_whether_the_record_holds(flserver: Run, kept: Path, tmp_path: Path) -> None:
    assert answer(flserver, "--db", kept, "verify")["verdict"] == "holds"
    assert answer(flserver, "--db", kept, "db", "check")["at_head"] is True
    other = shutil.copy(kept, tmp_path / "other.sqlite")
    same = answer(flserver, "verify", kept, other)
    assert [each["goes_on"] for each in same["databases"]] == [None, None]
    assert same["common"] > 0


def test_whether_a_start_would_succeed(flserver: Run, tmp_path: Path) -> None:
    start = ("--db", tmp_path / "x.sqlite", "check", "--server-port", "0", "--metrics-port", "0")
    found = answer(flserver, *start)
    assert (found["ok"], found["problems"]) == (True, [])
    assert any("will be made" in line for line in found["well"])
    bad = answer(flserver, *start, "--strategy", "fedagv", code=2)
    assert bad["ok"] is False
    assert "fedagv" in bad["problems"][0]


def test_json_is_the_same_as_the_format_json(flserver: Run, kept: Path) -> None:
    for command in (("runs",), ("show", "night"), ("query", "SELECT 1 AS one")):
        assert flserver("--db", kept, *command, "--json") == flserver("--db", kept, *command, "--format", "json")
