"""The commands that ask a database: runs, show, query."""

import csv
import io
import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Run, lines, refused
from tests.recorded_run import PLAIN, RUN, SCREEN_CLEARER


def test_runs_as_a_table_newest_first(flserver: Run, db: Path) -> None:
    head, rule, *rows = lines(flserver("--db", db, "runs"))
    columns = "run_id name status rounds_committed num_rounds model started_at ended_at parent_run_id parent_round"
    assert head.split() == columns.split()
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


def test_a_fresh_database_has_no_runs_yet_and_says_so_to_people_only(flserver: Run, tmp_path: Path) -> None:
    lines(flserver("--db", tmp_path / "new.sqlite", "db", "upgrade"))
    assert lines(flserver("--db", tmp_path / "new.sqlite", "runs")) == ["no runs yet"]
    assert lines(flserver("--db", tmp_path / "new.sqlite", "runs", "--format", "json")) == ["[]"]
    (head,) = lines(flserver("--db", tmp_path / "new.sqlite", "runs", "--format", "csv"))
    assert head.startswith("run_id,name,status,")


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


FORMULAS = (
    '=HYPERLINK("http://x","y")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1+1",
    "-",
    "=",
)


@pytest.mark.parametrize("form", [*FORMULAS, "-1e5x", "+٣"])
def test_what_a_spreadsheet_would_calculate_is_text_in_csv(flserver: Run, db: Path, form: str) -> None:
    asked = ("--db", db, "query", "SELECT :text AS t", "--param", f"text={form}", "--format")
    assert list(csv.reader(io.StringIO(flserver(*asked, "csv")[1], newline=""))) == [["t"], [f"'{form}"]]
    assert list(csv.reader(io.StringIO(flserver(*asked, "csv", "--raw")[1], newline=""))) == [["t"], [form]]
    assert json.loads(flserver(*asked, "json")[1]) == [{"t": form}]


@pytest.mark.parametrize("text", ["a\r=1", "a\n=1", 'a"\r\n,=1'])
def test_no_text_begins_a_row_of_its_own_in_csv(flserver: Run, db: Path, text: str) -> None:
    code, said, _ = flserver("--db", db, "query", "SELECT :text AS t", "--param", f"text={text}", "--format", "csv")
    quoted = text.replace('"', '""')
    assert (code, said) == (0, f't\n"{quoted}"\n')


@pytest.mark.parametrize("number", ["-1", "-0.5", "-1e-05", "'-1'", "'+1.5'", "-9e999", "-5000000000"])
def test_a_number_is_never_quoted_in_csv(flserver: Run, db: Path, number: str) -> None:
    said = lines(flserver("--db", db, "query", f"SELECT {number} AS n", "--format", "csv"))
    assert said == ["n", {"-9e999": "-inf"}.get(number, number.strip("'"))]


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
