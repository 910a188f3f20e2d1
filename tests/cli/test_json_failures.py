"""A command that fails says so to programs too: one object on standard output, beside the line on standard error."""

import json
from pathlib import Path

import pytest

from tests.cli.all_commands import WITHOUT, commands
from tests.cli.conftest import Answer, Run
from tests.evidence.record import LOG

FAILING = {
    "check": "--db {tmp} check --server-port none",
    "runs": "--db {tmp}/none.sqlite runs",
    "show": "show nobody",
    "query": "query SELEKT",
    "compare": "compare night",
    "tail": "tail nobody",
    "export": "export night",
    "ask": "ask best_rond",
    "export-model": "export-model night --out {tmp}/it.txt",
    "report": "report nobody --out {tmp}/it.html",
    "evidence": "evidence nobody --out {tmp}/it.zip",
    "verify": "--db {tmp}/none.sqlite verify",
    "purge": "purge --what payloads",
    "replay": "replay night",
    "descendants": "descendants nobody:1",
    "backup": "--db {tmp}/none.sqlite backup {tmp}/copy",
    "restore": "--db {tmp}/again.sqlite restore {tmp}/none",
    "prove": "prove nobody:1",
    "keygen": "keygen",
    "witness": "witness --url {tmp}/none --log-key {log}",
    "witness compare": "witness compare {tmp}/one {tmp}/other --log-key {log}",
    "witness check": "witness check {tmp}/none --log-key {log}",
    "simulate": "simulate --no-play",
    "db upgrade": "--db {tmp} db upgrade",
    "db downgrade": "db downgrade 9999",
    "db check": "--db {tmp}/none.sqlite db check",
    "db copy": "db copy {tmp}/none.sqlite {tmp}/copied.sqlite",
}


def told(answer: Answer) -> None:
    """One object in one line, which says what standard error says, and the exit code."""
    code, said, complaint = answer
    found = json.loads(said)
    assert found.keys() == {"error", "exit_code"}
    assert found["exit_code"] == code > 0
    assert complaint.splitlines()[-1] == f"flserver: {found['error']}"
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", FAILING)
def test_a_command_that_fails_prints_an_object(flserver: Run, db: Path, tmp_path: Path, name: str) -> None:
    words = [word.format(tmp=tmp_path, log=LOG.public) for word in FAILING[name].split()]
    typed = (*(() if "--db" in words else ("--db", db)), *words)
    told(flserver(*typed, "--json"))
    code, said, _ = flserver(*typed)
    assert (code > 0, said) == (True, ""), "who did not ask for JSON gets none"


def test_no_command_is_forgotten() -> None:
    from flserver.cli.main import cli

    assert dict(commands(cli)).keys() - WITHOUT.keys() == FAILING.keys()


@pytest.mark.parametrize(
    "words",
    [
        "runs --json --frobnicate",  # click knows no such option, and looks no further
        "runs --frobnicate --format json",
        "runs --frobnicate --format=json",
        "show --round none --json",  # what stands before it is wrong
        "--frobnicate runs --json",
        "runs --sort none --format json",
        "explore --json",  # which it has not: who asks for JSON gets it
    ],
)
def test_json_is_answered_wherever_it_is_asked_for(flserver: Run, db: Path, words: str) -> None:
    told(flserver("--db", db, *words.split()))


@pytest.mark.parametrize(
    "words", ["runs --frobnicate", "runs --format jsonl", "simulate --frobnicate -- --json", "runs --sort none"]
)
def test_json_is_not_answered_where_nobody_asks(flserver: Run, db: Path, words: str) -> None:
    code, said, _ = flserver("--db", db, *words.split())
    assert (code, said) == (2, "")


def test_json_is_answered_where_the_environment_asks(flserver: Run, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLSERVER_RUNS_AS_JSON", "1")
    told(flserver("--db", db, "runs", "--sort", "none"))
    assert isinstance(json.loads(flserver("--db", db, "runs")[1]), list)


def test_what_fails_after_some_rows_has_printed_none_of_them(flserver: Run, db: Path) -> None:
    counted = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
    sql = f"{counted} SELECT json_extract(CASE WHEN i = 4000 THEN 'no json' ELSE '[1]' END, '$[0]') AS one FROM n"
    told(flserver("--db", db, "query", sql, "--json"))
    assert flserver("--db", db, "query", sql, "--format", "csv")[:2] == (2, "")


def test_an_interrupted_command_says_so(flserver: Run, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flserver.cli.ask.say", interrupted)
    answer = flserver("--db", db, "runs", "--json")
    told(answer)
    assert (answer[0], json.loads(answer[1])["error"]) == (3, "interrupted")
    monkeypatch.setattr("flserver.cli.play.play", interrupted)
    answer = flserver("simulate", "--json")
    told(answer)
    assert (answer[0], "its processes have ended" in answer[2]) == (3, True)
