"""Every command answers programs in JSON, with the same option: one object, an array of rows, or an object a line."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import pytest

from flserver.cli.main import cli, run_cli
from tests.cli.all_commands import WITHOUT, commands
from tests.cli.conftest import Run
from tests.evidence.record import LOG, write_record
from tests.kept_run import write_kept

ROWS = frozenset({"runs", "show", "query", "ask", "descendants"})
"""Those whose answer is rows: ``--json`` is their ``--format json``, an array of objects."""
LINES = frozenset({"tail", "witness"})
"""Those that go on: an object a line."""
CASES = {
    "check": "--db {tmp}/x.sqlite check --server-port 0 --metrics-port 0",
    "runs": "runs",
    "show": "show night",
    "query": "query SELECT*FROM(v1_runs)",
    "compare": "compare other night",
    "tail": "tail night",
    "export": "export night --out {tmp}/rows",
    "ask": "ask best_round",
    "export-model": "export-model night --out {tmp}/it.safetensors",
    "report": "report night --out {tmp}/it.html",
    "evidence": "evidence night --out {tmp}/it.zip",
    "verify": "verify",
    "purge": "purge --what payloads --run other",
    "replay": "--db {kept} replay night",
    "descendants": "--db {kept} descendants night:2",
    "backup": "backup {tmp}/copy",
    "restore": "--db {tmp}/again.sqlite restore {made}/copy",
    "prove": "prove night:1",
    "keygen": "keygen --out {tmp}/key",
    "witness": "witness --url {made}/since --log-key {log} --key {made}/witness --state {tmp}/state --once",
    "witness compare": "witness compare {made}/cosigned {made}/cosigned --log-key {log}",
    "witness check": "witness check {made}/proof --log-key {log}",
    "db upgrade": "db upgrade",
    "db downgrade": "db downgrade 0013",
    "db check": "db check",
    "db copy": "db copy {kept} {tmp}/copied.sqlite",
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kept") / "runs.sqlite"
    write_kept(path)
    return path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record with signed heads, whose copies the tests may change."""
    folder = tmp_path_factory.mktemp("signed")
    write_record(folder)
    return folder


@pytest.fixture(scope="module")
def made(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What some commands start from: a backup, proofs, a witness's key and a head that it has cosigned."""
    folder, db = tmp_path_factory.mktemp("made"), recorded / "runs.sqlite"
    for told in (
        ("--db", db, "backup", folder / "copy"),
        ("--db", db, "prove", "night:1", "--out", folder / "proof"),
        ("--db", db, "prove", "--since", "0", "--out", folder / "since"),
        ("keygen", "--witness", "--out", folder / "witness"),
        (
            *("witness", "--once", "--url", folder / "since", "--log-key", LOG.public, "--key", folder / "witness"),
            *("--state", folder / "state", "--out", folder / "cosigned"),
        ),
    ):
        assert run_cli([*map(str, told)]) == 0
    return folder


def answer(flserver: Run, *arguments: object, code: int = 0) -> Any:
    got, said, err = flserver(*arguments, "--json")
    assert got == code, err
    return json.loads(said)


def test_every_command_has_the_option() -> None:
    found = dict(commands(cli))
    assert {name for name, command in found.items() if not _has_it(command)} == WITHOUT.keys()
    assert found.keys() - WITHOUT.keys() - {"simulate"} == CASES.keys(), "each is tried, simulate in tests/e2e"


def _has_it(command: click.Command) -> bool:
    return any("--json" in parameter.opts for parameter in command.params)


@pytest.mark.parametrize("name", CASES)
def test_what_a_command_prints_is_json_alone(
    flserver: Run, db: Path, kept: Path, made: Path, tmp_path: Path, name: str
) -> None:
    places = {"tmp": tmp_path, "kept": kept, "made": made, "log": LOG.public}
    words = [word.format(**places) for word in CASES[name].split()]
    code, said, err = flserver(*(() if "--db" in words else ("--db", db)), *words, "--json")
    assert code == 0, err
    if name in LINES:
        assert all(isinstance(json.loads(line), dict) for line in said.splitlines())
    elif name in ROWS:
        assert all(isinstance(row, dict) for row in json.loads(said))
    else:
        assert isinstance(json.loads(said), dict)
    assert len(said) > len("[{}]"), "it is about something"


def test_an_object_says_what_the_lines_say(flserver: Run, db: Path, tmp_path: Path) -> None:
    bundle = answer(flserver, "--db", db, "evidence", "night", "--out", tmp_path / "one.zip")
    text = flserver("--db", db, "evidence", "night", "--out", tmp_path / "two.zip")[1].replace("two.zip", "one.zip")
    assert all(str(bundle[key]) in text for key in bundle.keys() - {"commands"})
    assert all(command in text for command in bundle["commands"])
    model = answer(flserver, "--db", db, "export-model", "night", "--out", tmp_path / "it.safetensors")
    text = flserver("--db", db, "export-model", "night", "--out", tmp_path / "it.safetensors")[1]
    assert all(str(model[key]) in text for key in ("round", "name", "model_digest", "file_digest", "beside"))
    proof = flserver("--db", db, "prove", "night:1")[1]
    assert answer(flserver, "--db", db, "prove", "night:1")["proof"] == proof
    written = answer(flserver, "--db", db, "prove", "night:1", "--out", tmp_path / "proof")
    assert (written["proof"], Path(written["file"]).read_text()) == (None, proof)
    copied = answer(flserver, "--db", db, "backup", tmp_path / "copy")
    assert (copied["problems"], Path(copied["file"]).exists()) == ([], True)
    page = answer(flserver, "--db", db, "report", "night", "--out", tmp_path / "it.html")
    assert page["bytes"] == Path(page["file"]).stat().st_size
    code, said, err = flserver("--db", db, "report", "night", "--out", "-", "--json")
    assert (code, json.loads(said)["exit_code"], "--json goes with a file" in err) == (2, 2, True)


def test_a_purge_says_what_would_go_and_what_went(flserver: Run, db: Path) -> None:
    asked = ("--db", db, "purge", "--what", "payloads", "--run", "night")
    would = answer(flserver, *asked)
    assert would["purged"] is False
    assert would["events"] > 0
    gone = answer(flserver, *asked, "--yes")
    assert gone == would | {"purged": True}
    assert answer(flserver, *asked, "--yes")["purged"] is False, "there is nothing left"


def test_a_backup_that_does_not_hold_is_an_answer_too(flserver: Run, made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made / "copy", tmp_path / "copy"))
    (file,) = folder.glob("**/round-000002-*")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    code, said, err = flserver("--db", tmp_path / "again.sqlite", "restore", folder, "--json")
    found = json.loads(said)
    assert (code, found["restored"]) == (1, False)
    assert all(line in err for line in found["problems"])


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


def test_columns_of_one_name_are_not_lost_in_json(flserver: Run, kept: Path) -> None:
    code, said, complaint = flserver("--db", kept, "query", "SELECT 1 AS i, 2 AS i", "--json")
    assert (code, json.loads(said).keys()) == (2, {"error", "exit_code"})
    assert "two columns are called i" in complaint
    assert flserver("--db", kept, "query", "SELECT 1 AS i, 2 AS i", "--format", "csv")[1] == "i,i\n1,2\n"


@pytest.mark.parametrize("leaves", ["export night --out {tmp}/rows", "export-model night --out {tmp}/m.pt", "prove 1"])
def test_what_leaves_the_house_is_not_of_a_record_that_a_newer_version_wrote(
    flserver: Run, db: Path, tmp_path: Path, leaves: str
) -> None:
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0099'")
    code, said, complaint = flserver("--db", db, *leaves.format(tmp=tmp_path).split())
    assert (code, said, "newer flserver" in complaint) == (2, "", True)


def test_json_is_the_same_as_the_format_json(flserver: Run, kept: Path) -> None:
    for command in (("runs",), ("show", "night"), ("query", "SELECT 1 AS one")):
        assert flserver("--db", kept, *command, "--json") == flserver("--db", kept, *command, "--format", "json")
