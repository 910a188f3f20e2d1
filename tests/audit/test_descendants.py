"""Which later models rest on a round, or on a client's updates."""

import contextlib
import csv
import io
import sqlite3
from pathlib import Path

import pytest

from tests.cli.conftest import Run, lines, refused
from tests.kept_run import CHILD, RUN

LATER = [("later", "0", "what it begins with"), ("later", "1", "the round before it")]


def found(flserver: Run, db: Path, *arguments: object) -> list[tuple[str, str, str]]:
    code, out, err = flserver("--db", db, "descendants", *arguments, "--format", "csv")
    assert (code, err) == (0, "")
    return [(row["name"], row["round"], row["by"]) for row in csv.DictReader(io.StringIO(out))]


@pytest.mark.parametrize(
    ("round", "expected"),
    [
        (0, [("night", str(n), "the round before it") for n in (1, 2, 3)] + LATER),
        (2, [("night", "3", "the round before it"), *LATER]),
        (3, []),
    ],
)
def test_rounds_after_it_and_children_that_begin_there_or_later(
    flserver: Run, db: Path, round: int, expected: list[tuple[str, str, str]]
) -> None:
    assert found(flserver, db, f"night:{round}") == expected
    assert found(flserver, db, f"{RUN}:{round}") == expected


def test_a_childs_own_round(flserver: Run, db: Path) -> None:
    assert found(flserver, db, f"{CHILD}:0") == [("later", "1", "the round before it")]
    assert lines(flserver("--db", db, "descendants", "later:1")) == ["no later model rests on it"]


def test_a_clients_rounds_and_what_rests_on_them(flserver: Run, db: Path) -> None:
    whole = [("night", str(n), "an update in it") for n in (1, 2, 3)]
    assert found(flserver, db, "10") == [*whole, LATER[0], ("later", "1", "an update in it")]
    assert found(flserver, db, "1") == [*whole, *LATER]
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("UPDATE updates SET decision = 'rejected' WHERE client_id = '1' AND answers_round < 3")
        connection.execute("UPDATE updates SET client_id = 'night:2' WHERE client_id = '10' AND answers_round = 3")
    assert found(flserver, db, "1") == [("night", "3", "an update in it")]
    assert found(flserver, db, "--client", "night:2") == [("night", "3", "an update in it")]


def test_grandchildren_too_and_a_circle_ends(flserver: Run, db: Path) -> None:
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        columns = "num_rounds, model, strategy, seed, config, event_seq, started_at, status"
        insert = f"INSERT INTO runs (run_id, name, parent_run_id, parent_round, {columns})"
        connection.execute(f"{insert} SELECT 'third', 'third', '{CHILD}', 1, {columns} FROM runs LIMIT 1")
        rounds = "round, attempt, status, process_id, started_at, clients"
        copied = f"INSERT INTO rounds (run_id, {rounds}) SELECT 'third', {rounds} FROM rounds"
        connection.execute(f"{copied} WHERE run_id = '{CHILD}' AND round = 0")
        connection.execute(f"UPDATE runs SET parent_run_id = 'third', parent_round = 0 WHERE run_id = '{RUN}'")
    # A record of ours has no circle; one that somebody made has to be answered too.
    names = {name for name, _, _ in found(flserver, db, "night:2")}
    assert names == {"night", "later", "third"}


@pytest.mark.parametrize(
    ("what", "reason"), [("night:9", "no committed round 9"), ("night", "no client"), ("day:1", "has no run 'day'")]
)
def test_what_is_not_there(flserver: Run, db: Path, what: str, reason: str) -> None:
    refused(flserver("--db", db, "descendants", what), reason)
