"""The commands that ask a database: runs, show, query."""

import csv
import io
import json
import os
from pathlib import Path

import pytest

from flserver.cli.ask import in_order
from tests import golden
from tests.cli.conftest import Run, lines, refused
from tests.recorded_run import PLAIN, RUN, SCREEN_CLEARER


def test_runs_as_a_table_newest_first(flserver: Run, db: Path) -> None:
    head, rule, *rows = lines(flserver("--db", db, "runs"))
    columns = (
        "run_id name status strategy rounds_committed num_rounds clients loss accuracy model started_at ended_at"
        " parent_run_id parent_round"
    )
    assert head.split() == columns.split()
    assert set(rule) == {"-", " "}
    assert [row.split()[:9] for row in rows] == [
        [PLAIN, "plain", "interrupted", "fedavg", "0", "2", "0", "neural_net_helper:NeuralNet", *rows[0].split()[8:9]],
        [RUN, "night", "completed", "fedavg", "3", "2", "2", "0.5", "0.9"],
    ]


def sorted_by(flserver: Run, db: Path, by: str) -> list[str]:
    return [run["name"] for run in json.loads("\n".join(lines(flserver("--db", db, "runs", "--json", "--sort", by))))]


def test_runs_by_a_column_those_without_a_value_last(flserver: Run, db: Path) -> None:
    assert sorted_by(flserver, db, "name") == ["night", "plain"]
    assert sorted_by(flserver, db, "-name") == ["plain", "night"]
    assert sorted_by(flserver, db, "accuracy") == sorted_by(flserver, db, "-accuracy") == ["night", "plain"]
    refused(flserver("--db", db, "runs", "--sort", "accuracies"), "did you mean 'accuracy'?")


def test_sorting_by_numbers_from_either_end() -> None:
    rows = [("a", 2.0), ("b", None), ("c", 10.0)]
    assert in_order(["name", "loss"], rows, "loss") == [("a", 2.0), ("c", 10.0), ("b", None)]
    assert in_order(["name", "loss"], rows, "-loss") == [("c", 10.0), ("a", 2.0), ("b", None)]


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


def test_an_unknown_run_is_said_with_what_there_is(flserver: Run, db: Path) -> None:
    refused(flserver("--db", db, "show", "zz"), "has no run 'zz'; the newest are 'plain', 'night'")
    refused(flserver("--db", db, "show", "nigth"), "has no run 'nigth'; did you mean 'night'?")
    refused(flserver("--db", db, "show", "20"), f"the ids of 2 runs begin: {PLAIN} (plain), {RUN} (night)")


def test_a_run_is_meant_by_the_beginning_of_its_id_or_as_the_newest(flserver: Run, db: Path) -> None:
    for ref, name in (([], "plain"), (["newest"], "plain"), (["20260131"], "night"), (["20260201T"], "plain")):
        assert f"name {name}" in lines(flserver("--db", db, "show", *ref))[0]


def test_show_names_the_nodes_for_people_and_only_where_there_were_some(
    flserver: Run, db: Path, story_db: Path, tmp_path: Path
) -> None:
    said = lines(flserver("--db", story_db, "show", "night"))
    assert said[2].split()[:4] == ["node", "slot", "host", "pid"]
    assert [line.split()[:4] for line in said[4:6]] == [
        ["node-1", "1", "fl-b", "4243"],
        ["node-2", "2", "fl-b", "4244"],
    ]
    assert "its process ended" in said[5]
    assert said[7].split()[:2] == ["round", "attempt"]
    assert json.loads(flserver("--db", story_db, "show", "night", "--json")[1])[0].keys() >= {"round", "attempt"}
    assert "node" not in flserver("--db", db, "show")[1].replace("node_", "")
    old = tmp_path / "old.sqlite"
    golden.old_record(old)
    assert lines(flserver("--db", old, "show"))[2].split()[:2] == ["round", "attempt"], "it has no such view"


def test_show_of_a_round_has_its_times_and_its_clients(flserver: Run, story_db: Path) -> None:
    said = lines(flserver("--db", story_db, "show", "night", "--round", "1"))
    assert "aggregate_seconds" in said[2]
    assert [line.split()[1] for line in said[4:6]] == ["aborted", "committed"]
    rows = json.loads(flserver("--db", story_db, "show", "night", "--round", "1", "--json")[1])
    assert [(row["attempt"], row["client_id"], row["participation"], row["decision"]) for row in rows] == [
        (1, "1", "answered", "aborted"),
        (1, "2", "answered", "rejected"),
        (1, "3", "timed_out", "late"),
        (2, "1", "answered", "accepted"),
        (2, "2", "answered", "accepted"),
        (2, "3", "not_sent", None),
    ]
    assert (rows[3]["training_seconds"], rows[3]["upload_seconds"], rows[3]["weight"]) == (1.5, 0.5, 0.5)
    refused(flserver("--db", story_db, "show", "night", "--round", "9"), "has no round 9: it has rounds up to 1")


def test_show_of_a_client_has_its_registrations_and_what_became_of_its_rounds(flserver: Run, story_db: Path) -> None:
    said = lines(flserver("--db", story_db, "show", "night", "--client", "1"))
    assert said[2].split()[:2] == ["registration", "label"]
    assert [line.split()[0] for line in said[4:6]] == ["1", "2"]
    rows = json.loads(flserver("--db", story_db, "show", "night", "--client", "1", "--json")[1])
    assert [(row["round"], row["attempt"], row["reason"], row["weight"]) for row in rows] == [
        (1, 1, "quorum", None),
        (1, 2, None, 0.5),
    ]
    one = json.loads(flserver("--db", story_db, "show", "night", "--client", "3", "--round", "1", "--json")[1])
    assert [row["client_id"] for row in one] == ["3", "3"]
    refused(flserver("--db", story_db, "show", "night", "--client", "9"), "has no client '9': it has ")


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


def test_a_query_about_a_run_takes_its_name_and_the_newest_where_none_is_named(flserver: Run, db: Path) -> None:
    sql = "SELECT name FROM v1_runs WHERE run_id = :run_id"
    by = ((("--run", "night"), "night"), (("--param", "run_id=20260131"), "night"), ((), "plain"))
    for given, name in by:
        assert lines(flserver("--db", db, "query", sql, *given)) == ["name", "-----", name]
    refused(flserver("--db", db, "query", sql, "--run", "day"), "has no run 'day'")
    refused(flserver("--db", db, "query", sql, "--param", "run_id=day"), "has no run 'day'")
    refused(flserver("--db", db, "query", sql, "--run", "night", "--param", "run_id=x"), "leave one of the two out")


def test_a_number_too_large_for_sqlite_is_text(flserver: Run, db: Path) -> None:
    answer = flserver("--db", db, "query", "SELECT typeof(:n) AS kind", "--param", "n=" + "9" * 40, "--format", "csv")
    assert lines(answer) == ["kind", "text"]
