"""The commands that read a database, and the settings that serving would have."""

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flserver.cli.main import run_cli
from flserver.settings import SERVER_SETTINGS
from flserver.store.sqlite import DatabaseLock
from tests.recorded_run import PLAIN, RUN, SCREEN_CLEARER, weights, write_database

ROOT = Path(__file__).parents[1]
QUESTIONS = sorted((ROOT / "ops" / "sql").glob("*.sql"))
Answer = tuple[int, str, str]


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    write_database(folder / "runs.sqlite")
    return folder


@pytest.fixture
def db(recorded: Path, tmp_path: Path) -> Path:
    """A copy that the test may spoil."""
    return Path(shutil.copytree(recorded, tmp_path / "here")) / "runs.sqlite"


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


Run = Callable[..., Answer]


def refused(answer: Answer, reason: str, code: int = 2) -> None:
    """One line on standard error, nothing else, and the exit code."""
    assert (answer[0], answer[1]) == (code, "")
    assert answer[2].startswith("flserver: ")
    assert answer[2].count("\n") == 1
    assert reason in answer[2]


def lines(answer: Answer) -> list[str]:
    assert (answer[0], answer[2]) == (0, "")
    return answer[1].splitlines()


# --- runs and show ---------------------------------------------------------------------------------------------------


def test_runs_as_a_table_newest_first(flserver: Run, db: Path) -> None:
    head, rule, *rows = lines(flserver("--db", db, "runs"))
    assert re.sub(" +", " ", head) == "run_id name status rounds_committed num_rounds model started_at ended_at"
    assert set(rule) == {"-", " "}
    assert [row.split()[:5] for row in rows] == [
        [PLAIN, "plain", "interrupted", "0", "2"],
        [RUN, "night", "completed", "3", "2"],
    ]


def test_runs_for_programs(flserver: Run, db: Path) -> None:
    as_json = json.loads("\n".join(lines(flserver("--db", db, "runs", "--format", "json"))))
    assert [(run["run_id"], run["rounds_committed"]) for run in as_json] == [(PLAIN, 0), (RUN, 3)]
    as_csv = list(csv.DictReader(lines(flserver("--db", db, "runs", "--format", "csv"))))
    assert [run["run_id"] for run in as_csv] == [PLAIN, RUN]
    assert list(as_csv[0]) == list(as_json[0])


@pytest.mark.parametrize("ref", [RUN, "night"])
def test_show_tells_of_every_round(flserver: Run, db: Path, ref: str) -> None:
    first, empty, head, _, *rows = lines(flserver("--db", db, "show", ref))
    assert first == f"run {RUN}  name night  completed  model neural_net_helper:NeuralNet"
    assert empty == ""
    assert head.split()[:3] == ["round", "attempt", "status"]
    assert [row.split()[:3] for row in rows] == [[str(round), "1", "committed"] for round in range(4)]
    assert "0.95" in rows[2].split()


def test_show_for_programs_has_nothing_but_the_rows(flserver: Run, db: Path) -> None:
    rows = json.loads(flserver("--db", db, "show", "night", "--format", "json")[1])
    assert [(row["round"], row["accuracy"]) for row in rows] == [(0, 0.1), (1, 0.8), (2, 0.95), (3, 0.9)]


def test_an_unknown_run(flserver: Run, db: Path) -> None:
    refused(flserver("--db", db, "show", "day"), "has no run 'day'")


# --- which database --------------------------------------------------------------------------------------------------

COUNT = ("query", "SELECT COUNT(*) AS n FROM v1_runs", "--format", "csv")


def test_the_database_before_or_after_the_command_or_from_the_environment(
    flserver: Run, db: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = ["n", "2"]
    assert lines(flserver("--db", db, *COUNT)) == expected
    assert lines(flserver(*COUNT, "--db", db)) == expected
    assert lines(flserver("--db", tmp_path / "other.sqlite", *COUNT, "--db", db)) == expected, "the nearer one"
    monkeypatch.setenv("FLSERVER_DB", str(db))
    assert lines(flserver(*COUNT)) == expected
    refused(flserver("--db", tmp_path / "other.sqlite", *COUNT), "other.sqlite")
    monkeypatch.delenv("FLSERVER_DB")
    monkeypatch.chdir(db.parent)
    assert lines(flserver(*COUNT)) == expected, "runs.sqlite here is the default"
    (tmp_path / "c.toml").write_text(f"db = '{tmp_path}/from-file.sqlite'")
    refused(flserver("--config", tmp_path / "c.toml", *COUNT), "from-file.sqlite")


@pytest.mark.parametrize("command", [("runs",), ("show", "night"), COUNT, ("verify",), ("db", "check")])
def test_reading_makes_no_database(flserver: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    refused(flserver("--db", tmp_path / "none.sqlite", *command), "there is no database")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [("runs",), COUNT, ("verify",), ("db", "check"), ("db", "upgrade")])
def test_a_file_of_somebody_elses_is_left_alone(flserver: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    notes, other = tmp_path / "notes.txt", tmp_path / "other.sqlite"
    notes.write_text("not a database, and longer than the header of one\n" * 40)
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE t (x)")
    before = notes.read_bytes(), other.read_bytes()
    for path in (notes, other, tmp_path):
        refused(flserver("--db", path, *command), str(path))
    assert (notes.read_bytes(), other.read_bytes()) == before


# --- query -----------------------------------------------------------------------------------------------------------


def test_query_in_each_format(flserver: Run, db: Path) -> None:
    sql = (
        "SELECT 1 AS whole, 12345.678 AS big, 0.000123456 AS small, NULL AS absent,"
        " 'a,\"b\"' AS quoted, x'00ff' AS bytes, 9e999 AS endless"
    )
    assert lines(flserver("--db", db, "query", sql)) == [
        "whole    big      small  absent  quoted  bytes  endless",
        "-----  -----  ---------  ------  ------  -----  -------",
        '    1  12346  0.0001235          a,"b"   00ff       inf',
    ]
    assert lines(flserver("--db", db, "query", sql, "--format", "csv")) == [
        "whole,big,small,absent,quoted,bytes,endless",
        '1,12345.678,0.000123456,,"a,""b""",00ff,inf',
    ]
    assert json.loads(flserver("--db", db, "query", sql, "--format", "json")[1]) == [
        {
            "whole": 1,
            "big": 12345.678,
            "small": 0.000123456,
            "absent": None,
            "quoted": 'a,"b"',
            "bytes": "00ff",
            "endless": "Infinity",
        }
    ]


def test_a_query_without_rows_has_its_columns(flserver: Run, db: Path) -> None:
    sql = "SELECT run_id FROM v1_runs WHERE 0"
    assert lines(flserver("--db", db, "query", sql)) == ["run_id", "------"]
    assert lines(flserver("--db", db, "query", sql, "--format", "csv")) == ["run_id"]
    assert lines(flserver("--db", db, "query", sql, "--format", "json")) == ["[]"]


def test_what_a_client_calls_itself_cannot_reach_the_terminal(flserver: Run, db: Path) -> None:
    sql = "SELECT client_id FROM v1_clients ORDER BY client_id"
    table = lines(flserver("--db", db, "query", sql))
    assert table[2:] == ["1", "evil\\x1b[2J\\x07\\nsecond line"]
    assert all(line.isprintable() for line in table)
    assert json.loads(flserver("--db", db, "query", sql, "--format", "json")[1])[1] == {"client_id": SCREEN_CLEARER}


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM events",
        "CREATE TABLE t (x)",
        "CREATE TEMP TABLE t (x)",
        "ATTACH 'other.sqlite' AS other",
        "VACUUM INTO 'copy.sqlite'",
        "PRAGMA journal_mode = WAL",
        "SELECT load_extension('x')",
        "SELECT 1; DELETE FROM events",
        "BEGIN IMMEDIATE",
        "SELECT nothing FROM nowhere",
        "SELECT\nbroken (\n",
        "SELECT :missing",
    ],
)
def test_whatever_is_no_reading_is_one_line(flserver: Run, db: Path, sql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(db.parent)
    before = db.read_bytes(), sorted(os.listdir())
    refused(flserver("--db", db, "query", sql), "flserver: ")
    assert (db.read_bytes(), sorted(os.listdir())) == before


def test_sql_from_standard_input_with_parameters(flserver: Run, db: Path) -> None:
    sql = "SELECT :n + 1 AS n, typeof(:n) AS kind_n, :s AS s, typeof(:s) AS kind_s, typeof(:zeros) AS kind_zeros"
    given = ("--param", "n=-7", "--param", "s=a=b", "--param", "zeros=007", "--param", "unused=1")
    answer = flserver("--db", db, "query", "-", *given, "--format", "json", stdin=sql)
    assert json.loads(answer[1]) == [{"n": -6, "kind_n": "integer", "s": "a=b", "kind_s": "text", "kind_zeros": "text"}]


@pytest.mark.parametrize("text", ["n", "=1", "1n=1", "a b=1", ":n=1"])
def test_a_parameter_that_is_none(flserver: Run, db: Path, text: str) -> None:
    refused(flserver("--db", db, "query", "SELECT 1", "--param", text), "NAME=VALUE")


def test_a_number_too_large_for_sqlite_is_text(flserver: Run, db: Path) -> None:
    answer = flserver("--db", db, "query", "SELECT typeof(:n) AS kind", "--param", "n=" + "9" * 40, "--format", "csv")
    assert lines(answer) == ["kind", "text"]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda path: path.stem)
def test_every_question_of_the_handbook_is_asked_as_it_stands(flserver: Run, db: Path, question: Path) -> None:
    sql = question.read_text(encoding="utf-8")
    values = {"run_id": RUN, "round": "2", "model_digest": "sha256:0"}
    code = re.sub(r"--.*", "", sql)
    names = set(re.findall(r":([a-z_]+)", code))
    given = [argument for name in names for argument in ("--param", f"{name}={values[name]}")]
    answer = flserver("query", "-", "--db", db, *given, "--format", "json", stdin=sql)
    assert (answer[0], answer[2]) == (0, "")
    if question.stem == "learning_curve":
        assert [(row["round"], row["accuracy"]) for row in json.loads(answer[1])] == [
            (0, 0.1),
            (1, 0.8),
            (2, 0.95),
            (3, 0.9),
        ]


# --- export-model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("which", "round"), [(None, 3), ("last", 3), ("best", 2), ("0", 0)])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_rounds_model_is_exported(
    flserver: Run, db: Path, tmp_path: Path, which: str | None, round: int, suffix: str
) -> None:
    out = tmp_path / f"model{suffix}"
    asked = () if which is None else ("--round", which)
    record, file = lines(flserver("--db", db, "export-model", "night", *asked, "--out", out))
    assert re.fullmatch(rf"round {round} of run night, on record as sha256:[0-9a-f]{{64}}", record)
    assert file == f"{out} is sha256:{hashlib.sha256(out.read_bytes()).hexdigest()}"
    model = torch.load(out, weights_only=True) if suffix == ".pt" else load_file(out)
    assert {name: tensor.tolist() for name, tensor in model.items()} == {
        name: tensor.tolist() for name, tensor in weights(round).items()
    }, "the strategy's own tensors are no part of the model"


def test_checkpoints_that_were_moved(flserver: Run, db: Path, tmp_path: Path) -> None:
    moved = db.with_name("runs.sqlite.checkpoints").rename(tmp_path / "moved")
    out = tmp_path / "m.pt"
    refused(flserver("--db", db, "export-model", "night", "--out", out), "No such file", code=1)
    lines(flserver("--db", db, "export-model", "night", "--out", out, "--checkpoint-dir", moved))
    assert flserver("--db", db, "verify")[0] == 1
    lines(flserver("--db", db, "verify", "--checkpoint-dir", moved))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["night", "--round", "1", "--out", "m.pt"], "round 1 was pruned at 20"),
        (["night", "--round", "7", "--out", "m.pt"], "no committed round 7"),
        (["night", "--round", "-1", "--out", "m.pt"], "a number, best or last"),
        (["night", "--round", "newest", "--out", "m.pt"], "a number, best or last"),
        (["plain", "--round", "best", "--out", "m.pt"], "there is no best one"),
        (["day", "--out", "m.pt"], "has no run 'day'"),
        (["night", "--out", "m.onnx"], "ends in .safetensors or .pt"),
        (["night", "--out", "m"], "ends in .safetensors or .pt"),
        (["night"], "--out"),
        (["night", "--out", "no/such/folder/m.pt"], "cannot write"),
        (["night", "--out", "no/such/folder/m.safetensors"], "cannot write"),
    ],
)
def test_an_export_that_cannot_be(
    flserver: Run, db: Path, arguments: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(flserver("--db", db, "export-model", *arguments), reason)
    assert os.listdir() == ["here"], "nothing was written"


def spoil(db: Path, run_id: str, round: int) -> None:
    """One changed bit in a checkpoint's last tensor."""
    (file,) = db.with_name("runs.sqlite.checkpoints").glob(f"{run_id}/round-{round:06d}-*")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_a_changed_checkpoint_is_not_exported(flserver: Run, db: Path, tmp_path: Path) -> None:
    spoil(db, RUN, 3)
    out = tmp_path / "m.pt"
    refused(flserver("--db", db, "export-model", "night", "--out", out), "does not match its digest", code=1)
    assert not out.exists()


# --- verify ----------------------------------------------------------------------------------------------------------


def test_a_sound_record_is_verified(flserver: Run, db: Path) -> None:
    chain, *files, summary = lines(flserver("--db", db, "verify"))
    assert summary == "all 5 hold"
    assert re.fullmatch(r"\d+ events, an unbroken chain to sha256:[0-9a-f]{64}", chain)
    checked = [re.fullmatch(r"run (\w+) round (\d): sha256:[0-9a-f]{64}", line) for line in files]
    assert [match and match.groups() for match in checked] == [
        ("plain", "0"),
        ("night", "0"),
        ("night", "2"),
        ("night", "3"),
    ], "every checkpoint that was not pruned"


def test_a_changed_and_a_missing_checkpoint_are_found(flserver: Run, db: Path) -> None:
    spoil(db, RUN, 2)
    (gone,) = db.with_name("runs.sqlite.checkpoints").glob(f"{PLAIN}/*")
    gone.unlink()
    code, out, err = flserver("--db", db, "verify")
    assert code == 1
    assert len(out.splitlines()) == 3
    missing, changed, summary = err.splitlines()
    assert summary == "2 of 5 do not hold"
    assert "run plain round 0" in missing
    assert "No such file" in missing
    assert "run night round 2" in changed
    assert "does not match its digest" in changed


def test_a_table_that_was_changed_together_with_its_checkpoint_is_found(flserver: Run, db: Path) -> None:
    (file,) = db.with_name("runs.sqlite.checkpoints").glob(f"{RUN}/round-000002-*")
    forged = file.read_bytes()[:-1] + b"!"
    file.write_bytes(forged)
    digest = "sha256:" + hashlib.sha256(forged).hexdigest()
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("UPDATE rounds SET model_digest = ? WHERE run_id = ? AND round = 2", (digest, RUN))
    code, _, err = flserver("--db", db, "verify")
    assert code == 1
    assert f"run night round 2: v1_rounds says {digest}, the chain of events sha256:" in err
    assert "does not match its digest" in err


def test_a_changed_event_is_found(flserver: Run, db: Path) -> None:
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("UPDATE events SET payload = replace(payload, '100', '101') WHERE type = 'ClientRegistered'")
    code, out, err = flserver("--db", db, "verify")
    assert code == 1
    assert "the payload was changed" in err
    assert "unbroken" not in out


@pytest.mark.parametrize("payload", ["", "7", "{}", "[1", '{"round": "two", "model_digest": null}'])
def test_a_committed_round_whose_event_says_nothing_any_more_is_found(flserver: Run, db: Path, payload: str) -> None:
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("UPDATE events SET payload = ? WHERE type = 'RoundCommitted'", (payload,))
    code, _, err = flserver("--db", db, "verify")
    assert code == 1
    assert "the payload was changed" in err


# --- db --------------------------------------------------------------------------------------------------------------


def test_upgrade_makes_a_database_and_check_says_where_it_is(flserver: Run, tmp_path: Path) -> None:
    path = tmp_path / "new.sqlite"
    (made,) = lines(flserver("db", "upgrade", "--db", path))
    (checked,) = lines(flserver("--db", path, "db", "check"))
    state = json.loads(checked)
    assert (state["db"], state["schema"], state["at_head"]) == (str(path), state["newest"], True)
    assert made == f"{path} is at {state['newest']}"
    before = path.read_bytes()
    assert lines(flserver("--db", path, "db", "upgrade")) == [made], "and leaves it"
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_database(flserver: Run, tmp_path: Path) -> None:
    path = tmp_path / "empty.sqlite"
    path.touch()
    lines(flserver("db", "upgrade", "--db", path))
    assert lines(flserver("--db", path, *COUNT)) == ["n", "0"]


def test_a_database_that_a_server_has_open_is_not_upgraded(flserver: Run, db: Path) -> None:
    with DatabaseLock(db):
        refused(flserver("--db", db, "db", "upgrade"), "another flserver has")
        lines(flserver("--db", db, "runs"))


def test_upgrade_where_nothing_can_be_made(flserver: Run, tmp_path: Path) -> None:
    refused(flserver("db", "upgrade", "--db", tmp_path / "no" / "such" / "x.sqlite"), "cannot be")


# --- settings --------------------------------------------------------------------------------------------------------


def test_flag_before_environment_before_file_before_default(
    flserver: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "c.toml"
    config.write_text("num-rounds = 3\nserver-port = 4\nmin-clients = 5\nuse-cuda = false\n")
    monkeypatch.setenv("FLSERVER_NUM_ROUNDS", "6")
    monkeypatch.setenv("FLSERVER_SERVER_PORT", "7")
    monkeypatch.setenv("FLSERVER_HOST", "")
    code, printed, _ = flserver("--config", config, "--num-rounds", "8", "--print-config")
    values = tomllib.loads(printed)
    assert code == 0
    assert [values[name] for name in ("num-rounds", "server-port", "min-clients", "use-cuda", "host", "seed")] == [
        8,
        7,
        5,
        False,
        "127.0.0.1",
        0,
    ]


def test_what_is_printed_gives_the_same_server(flserver: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--num-rounds", "9", "--use-cuda=False", "--no-rejoin", "--run-name", 'Ward "7"', "--min-updates", "3")
    _, printed, _ = flserver(*arguments, "--print-config")
    (tmp_path / "c.toml").write_text(printed, encoding="utf-8")
    assert flserver("--config", tmp_path / "c.toml", "--print-config")[1] == printed
    monkeypatch.setenv("FLSERVER_CONFIG", str(tmp_path / "c.toml"))
    assert flserver("--print-config")[1] == printed
    named = re.findall(r"^(?:# )?([a-z-]+) ", printed, re.MULTILINE)
    assert named == [setting.name for setting in SERVER_SETTINGS], "every setting has its line"


# --- as a program ----------------------------------------------------------------------------------------------------


def test_the_module_is_the_program(db: Path) -> None:
    command = [sys.executable, "-m", "flserver", "--db", str(db), "query", "-", "--format", "csv"]
    done = subprocess.run(
        command, cwd=ROOT, input="SELECT name FROM v1_runs ORDER BY name", capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "name\nnight\nplain\n", "")
    command[-3] = "DELETE FROM events"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_the_version_is_said(flserver: Run) -> None:
    from importlib.metadata import version

    assert lines(flserver("--version")) == [f"flserver, version {version('flserver')}"]
