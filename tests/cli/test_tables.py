"""Rows are printed whole, and few of them are in memory: those who ask may have asked for millions."""

import csv
import errno
import io
import json
import sqlite3
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from flserver.cli.tables import FORMATS, MOST_SHOWN, say
from flserver.errors import UsageError
from flserver.store.reader import Reader
from tests.cli.conftest import Run, lines

FOR_EVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
NOT_UTF_8 = "SELECT 1 AS n, CAST(x'61ff62' AS TEXT) AS t UNION ALL SELECT 2, 'Zürich' ORDER BY n"


def rows(number: int, text: str = "x" * 2000) -> Iterator[tuple[int, float | None, str]]:
    for n in range(number):
        yield n, None if n % 2 else n / 4, f"{text}{n}"


@pytest.mark.parametrize("form", FORMATS)
def test_an_answer_takes_no_more_memory_the_longer_it_is(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Away(io.StringIO):
        def write(self, text: str) -> int:
            return len(text)

    monkeypatch.setattr(sys, "stdout", Away())
    say(("n", "q", "t"), rows(10), form)  # what is imported on the way is not the answer's
    tracemalloc.start()
    try:
        say(("n", "q", "t"), rows(10_000), form)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 8 << 20, "of an answer of 20 MB"


def test_long_answers_are_whole_in_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    number = MOST_SHOWN * 3
    said = {}
    for form in FORMATS:
        say(("n", "q", "t"), rows(number, "é|"), form)
        said[form] = capsys.readouterr().out
    assert json.loads(said["json"]) == [dict(zip(("n", "q", "t"), row, strict=True)) for row in rows(number, "é|")]
    assert said["json"].count("\n") == number + 2, "a line for each row"
    assert [*csv.reader(io.StringIO(said["csv"]))][-1] == [str(number - 1), "", f"é|{number - 1}"]
    head, rule, *table = said["table"].splitlines()
    assert (head.split(), len(table)) == (["n", "q", "t"], number)
    assert {len(line) for line in table[-10:]} == {len(rule)}
    assert table[4].split() == ["4", "1", "é|4"]


def test_no_rows_are_an_empty_array_or_what_is_said_in_their_place(capsys: pytest.CaptureFixture[str]) -> None:
    say(("n",), [], "json", nothing="nobody")
    say(("n",), [], "csv", nothing="nobody")
    say(("n",), [], "table", nothing="nobody")
    say(("n",), [], "table")
    assert capsys.readouterr().out == "[]\nn\nnobody\nn\n-\n"


def test_a_terminal_is_shown_the_first_rows_and_told_that_there_are_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    say(("i",), ((n,) for n in count(1)), "table")  # it would never end
    said = capsys.readouterr().out.splitlines()
    assert said[-3].split() == [str(MOST_SHOWN)]
    assert said[-1] == "the first 1,000 rows, and there are more: in a pipe, and as csv and json, are all"
    say(("i",), [(n,) for n in range(MOST_SHOWN)], "table")
    assert capsys.readouterr().out.splitlines()[-1].split() == [str(MOST_SHOWN - 1)], "these are all"


def test_a_terminal_is_told_that_there_are_no_rows_beside_the_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    say(("n",), [], "table")
    assert capsys.readouterr().err == "", "who reads a pipe has the table"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    say(("n",), [], "table")
    assert capsys.readouterr() == ("n\n-\n", "no rows\n")


def test_rows_are_read_while_they_are_asked_for(db: Path) -> None:
    columns, found = Reader(db).each(FOR_EVER)
    assert (columns, [next(found) for _ in range(3)]) == (["i"], [(1,), (2,), (3,)])
    found.close()  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="incomplete input"):
        Reader(db).each("SELECT (")


def test_a_place_without_room_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    say(("n", "q", "t"), rows(10), "json")
    assert capsys.readouterr().out.startswith("[\n"), "so little takes no file"
    with pytest.raises(UsageError, match=r"no room in .*: No space left on device; ask for less"):
        say(("n", "q", "t"), rows(2000), "json")
    assert capsys.readouterr().out == ""


def test_text_that_is_not_utf_8_is_escaped_and_the_others_are_whole(flserver: Run, db: Path) -> None:
    asked = ("--db", db, "query", NOT_UTF_8)
    assert [line.split() for line in lines(flserver(*asked))[2:]] == [["1", "a\\xffb"], ["2", "Zürich"]]
    assert lines(flserver(*asked, "--format", "csv"))[1:] == ["1,a\\xffb", "2,Zürich"]
    assert json.loads(flserver(*asked, "--json")[1]) == [{"n": 1, "t": "a\\xffb"}, {"n": 2, "t": "Zürich"}]


def test_a_record_is_not_held_to_be_what_the_escape_looks_like(flserver: Run, db: Path) -> None:
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("UPDATE runs SET name = CAST(x'ff' AS TEXT) WHERE name = 'plain'")
    assert "\\xff" in flserver("--db", db, "runs")[1]
    assert "\\xff" in flserver("--db", db, "query", "SELECT name FROM v1_runs")[1]
    assert flserver("--db", db, "verify", "--without-checkpoints")[0] != 0
