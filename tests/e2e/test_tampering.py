"""Whatever is changed in a finished record, ``verify`` finds and names it.

What is tried follows from the schema itself: each column of each table, each table's rows, each view, index and table.
"""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import torch

from flserver.audit.purge import Wanted, carry_out, finish, plan
from flserver.audit.report import Report
from flserver.audit.verify import Verification
from flserver.heads.keys import PrivateKey
from flserver.settings.operator import Operator
from flserver.store.chain import Link, payload_digest
from flserver.store.lock import DatabaseLock
from tests.e2e.harness import FAST, Peer, ServerProcess, closed, connect

CHAIN = ("events", "alembic_version", "tree_nodes")  # the others are derived; the tree: tests/audit/test_heads.py
CHAINED = ("seq", "run_id", "process_id", "type", "at", "payload", "salt", "payload_digest")
LINKS = ("previous_digest", "digest")
METRICS = {"loss": {"received": 2.5, "trained": 1.0}, "accuracy": {"received": 0.5}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record of a run with a drop-out, refusals, an update that is rejected, a kill and a resume over a node."""
    folder = tmp_path_factory.mktemp("finished")
    with ExitStack() as stack:
        PrivateKey.generate("log.example/a").write(folder / "key")
        options = ("--strangers-per-minute", "0", "--seed", "3", "--min-updates", "2", "--audit-head", "heads")
        options += ("--sign-key", str(folder / "key"))
        server = stack.enter_context(ServerProcess(folder, "--num-rounds", "3", "--min-clients", "3", *options, *FAST))

        def joined(*names: str) -> list[Peer]:
            return [stack.enter_context(Peer(server, name)).join() for name in names]

        a, b, c = joined("a", "b", "c")
        for peer in (a, b, c):
            peer.upload(peer.model(), metrics=METRICS)
        a.upload(a.model(), metrics=METRICS)
        bad = b.model()
        with torch.no_grad():
            next(bad.parameters())[0, 0] = float("nan")
        b.upload(bad)
        c.model()
        c.connection.close()
        server.wait_for_sql("SELECT 1 FROM v1_clients WHERE client_id = 'c' AND left_at NOT NULL")
        server.wait_for_sql("SELECT 1 FROM v1_updates WHERE decision = 'rejected'")
        server.kill()
        server = stack.enter_context(ServerProcess(folder, "--resume", "--min-clients", "2", "--ingest", "1", *FAST))
        with connect(server.port) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert closed(stranger)
        a, b = joined("a", "b")
        for _ in range(2):
            for peer in (a, b):
                peer.upload(peer.model(), metrics=METRICS)
        for peer in (a, b):
            peer.finished()
        assert server.exit_code() == 0
    return server.db


@pytest.fixture(scope="module")
def purged(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same record, of which all payloads were purged that can be."""
    db = tmp_path_factory.mktemp("purged") / "runs.sqlite"
    shutil.copy(finished, db)
    wanted = Wanted(what="payloads", run=None, before="2999", client=None, operator=Operator(actor="a"))
    with DatabaseLock(db) as lock:
        made = plan(db, wanted, None)
        carry_out(db, wanted, made, lock)
        finish(db, made)
    return db


class Edit:
    """Runs SQL on a copy of the record, ``db``."""

    def __init__(self, db: Path, connection: sqlite3.Connection) -> None:
        self.db, self._connection = db, connection

    def restore(self, source: Path) -> None:
        """Begin again with another record."""
        with closing(sqlite3.connect(source)) as connection:
            connection.backup(self._connection)

    def __call__(self, statement: str) -> None:
        with self._connection:
            self._connection.execute(statement)


@pytest.fixture
def edit(finished: Path, tmp_path: Path) -> Iterator[Edit]:
    db = tmp_path / "edited.sqlite"
    shutil.copy(finished, db)
    with closing(sqlite3.connect(db)) as connection:
        yield Edit(db, connection)


def verified(db: Path, finished: Path, heads: Path | None = None) -> dict[str, Any]:
    """What ``verify --json`` says of the edited copy."""
    folder = finished.with_name(f"{finished.name}.checkpoints")
    verification, report = Verification(db, folder, audit_head=heads), Report()
    for finding in verification.run():
        report.add(finding)
    return dict(json.loads(json.dumps(report.as_json(verification.facts))))


def tables(db: Path) -> dict[str, list[dict[str, Any]]]:
    """The columns of each table."""
    with closing(sqlite3.connect(db)) as connection:
        connection.row_factory = sqlite3.Row
        names = [row["name"] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: [dict(row) for row in connection.execute(f"PRAGMA table_info({name})")] for name in names}


def derived(db: Path) -> dict[str, list[dict[str, Any]]]:
    return {name: columns for name, columns in tables(db).items() if name not in CHAIN}


def other(column: dict[str, Any]) -> str:
    """An expression of another value of the column, whatever it is."""
    name = column["name"]
    return f"COALESCE({name} || '~', '~')" if column["type"] == "TEXT" else f"COALESCE({name} + 1, 7)"


def first(table: str) -> str:
    return f"rowid = (SELECT MIN(rowid) FROM {table})"


def test_the_finished_record_holds_and_has_rows_in_every_table(finished: Path) -> None:
    found = verified(finished, finished)
    assert (found["verdict"], found["findings"]) == ("holds", [])
    assert set(found["tables"]) == set(derived(finished))
    assert all(found["tables"].values()), found["tables"]


def test_every_column_of_every_table_is_compared(edit: Edit, finished: Path) -> None:
    """All columns of one row at once, of each table: every one of them is named."""
    expected = set()
    for name, columns in derived(finished).items():
        changed = [column for column in columns if not column["pk"]]
        edit(f"UPDATE {name} SET {setting(changed)} WHERE {first(name)}")
        expected |= {(name, column["name"]) for column in changed}
    found = verified(edit.db, finished)
    assert found["exit_code"] == 1
    named = [row for row in found["findings"] if row["check"] == "tables"]
    assert {(row["table"], column) for row in named for column in row["columns"]} == expected
    assert all(row["what"] == "changed" for row in named)
    assert len(named) == len(derived(finished)), "a line a row"


def setting(columns: list[dict[str, Any]]) -> str:
    return ", ".join(f"{column['name']} = {other(column)}" for column in columns)


def test_every_part_of_every_key_is_compared(edit: Edit, finished: Path) -> None:
    """A row under another key is one that was added and one that is missing."""
    for number in range(max(sum(bool(c["pk"]) for c in columns) for columns in derived(finished).values())):
        expected = []
        for name, columns in derived(finished).items():
            keys = [column for column in columns if column["pk"]]
            if number < len(keys):
                key = keys[number]
                value = other(key) if key["type"] == "TEXT" else f"{key['name']} + 1000000"
                edit(f"UPDATE {name} SET {key['name']} = {value} WHERE {first(name)}")
                expected += [(name, "added"), (name, "missing")]
        found = verified(edit.db, finished)
        named = [(row["table"], row["what"]) for row in found["findings"] if row["check"] == "tables"]
        assert set(expected) <= set(named)


def replace_rows(edit: Edit, finished: Path) -> list[tuple[str, str]]:
    """Delete a row of each table, and insert it under another key. Returns what is to be found."""
    expected = []
    for name, columns in derived(finished).items():
        edit(f"CREATE TABLE one AS SELECT * FROM {name} WHERE {first(name)}")
        edit(f"DELETE FROM {name} WHERE {first(name)}")
        last_key = [column for column in columns if column["pk"]][-1]
        value = other(last_key) if last_key["type"] == "TEXT" else f"{last_key['name']} + 1000000"
        edit(f"UPDATE one SET {last_key['name']} = {value}")
        if name == "rounds":
            edit("UPDATE one SET round = 77")  # a round is committed once
        edit(f"INSERT INTO {name} SELECT * FROM one")
        edit("DROP TABLE one")
        expected += [(name, "missing"), (name, "added")]
    return sorted(expected)


def test_a_row_deleted_or_inserted_in_any_table_is_found(edit: Edit, finished: Path) -> None:
    expected = replace_rows(edit, finished)
    found = verified(edit.db, finished)["findings"]
    assert sorted((row["table"], row["what"]) for row in found if row["check"] == "tables") == expected


@pytest.mark.parametrize("column", CHAINED)
def test_every_column_of_an_event_is_covered(edit: Edit, finished: Path, column: str) -> None:
    of = {c["name"]: c for c in tables(finished)["events"]}
    assert set(of) == {*CHAINED, *LINKS}
    middle = "seq = (SELECT MAX(seq) / 2 FROM events)"
    value = "seq + 1000000" if column == "seq" else other(of[column])
    edit(f"UPDATE events SET {column} = {value} WHERE {middle}")
    found = verified(edit.db, finished)
    assert found["exit_code"] == 1
    assert found["counts"]["does not hold"]["chain"] >= 1


@pytest.mark.parametrize("column", LINKS)
def test_a_changed_link_is_one_line(edit: Edit, finished: Path, column: str) -> None:
    edit(f"UPDATE events SET {column} = {column} || '0' WHERE seq = 9")
    (row,) = verified(edit.db, finished)["findings"]
    assert row["line"].startswith("event 9: ")


def test_a_removed_event_is_one_break_of_the_chain(edit: Edit, finished: Path) -> None:
    edit("DELETE FROM events WHERE seq = 9")
    found = verified(edit.db, finished)
    assert found["exit_code"] == 1
    chain = [row["line"] for row in found["findings"] if row["check"] == "chain"]
    assert chain == ["event 10: does not follow the row before it: a row was removed, inserted or moved here"]
    assert len(found["findings"]) < 6, found["findings"]


def test_an_inserted_event_is_found(edit: Edit, finished: Path) -> None:
    edit("CREATE TABLE one AS SELECT * FROM events ORDER BY seq DESC LIMIT 1")
    edit("UPDATE one SET seq = seq + 1")
    edit("INSERT INTO events SELECT * FROM one")
    edit("DROP TABLE one")
    found = verified(edit.db, finished)
    assert found["counts"]["does not hold"]["chain"] == 1


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["DROP VIEW v1_runs", "CREATE VIEW v1_runs AS SELECT 'best' AS name"], "the view v1_runs was changed"),
        (["DROP VIEW v1_events"], "the view v1_events is missing"),
        (["CREATE VIEW v1_more AS SELECT 1"], "the view v1_more was added"),
        (
            ["CREATE TRIGGER sly AFTER INSERT ON updates BEGIN UPDATE rounds SET loss = 0; END"],
            "the trigger sly was added",
        ),
        (["DROP INDEX rounds_committed_once"], "the index rounds_committed_once is missing"),
        (["CREATE TABLE more (x)"], "the table more was added"),
        (["ALTER TABLE messages ADD COLUMN more TEXT"], "the table messages was changed"),
        (["DROP TABLE summaries"], "the table summaries is missing"),
        (["INSERT INTO alembic_version VALUES ('0001')"], "alembic_version has 2 rows"),
    ],
)
def test_a_changed_schema_is_found(edit: Edit, finished: Path, statements: list[str], said: str) -> None:
    for statement in statements:
        edit(statement)
    found = verified(edit.db, finished)
    assert found["exit_code"] == 1
    assert any(said in row["line"] for row in found["findings"])


def test_an_end_that_was_cut_off_or_written_anew_shows_in_the_heads_noted_elsewhere(edit: Edit, finished: Path) -> None:
    heads = finished.with_name("heads")
    rounds = [line.split()[3] for line in heads.read_text().splitlines()]
    assert rounds[:2] == ["0", "1"]
    assert rounds[-2:] == ["3", "3"], "after each round, and at the stop of the process that was resumed"
    assert verified(finished, finished, heads)["verdict"] == "holds"
    last = int(heads.read_text().splitlines()[-1].split()[0])
    rest = "FROM events ORDER BY seq DESC LIMIT 1"
    edit(f"DELETE FROM events WHERE seq = {last}")
    assert not verified(edit.db, finished)["counts"]["does not hold"].get("chain"), "the chain itself does not show it"
    (found,) = [row for row in verified(edit.db, finished, heads)["findings"] if row["check"] == "head"]
    assert "its end was cut off" in found["line"]
    with closing(sqlite3.connect(edit.db)) as connection:
        row = connection.execute(f"SELECT run_id, process_id, type, at, digest {rest}").fetchone()
    salt, payload = "00" * 16, "{}"
    link = Link(
        seq=last, run_id=row[0], process_id=row[1], type="StateChanged", at=row[3],
        payload_digest=payload_digest(salt, payload), previous_digest=row[4],
    )  # fmt: skip
    values = ", ".join(repr(value) for value in [*vars(link).values(), payload, salt, link.digest()])
    edit(f"INSERT INTO events ({', '.join(vars(link))}, payload, salt, digest) VALUES ({values})")
    (found,) = [row for row in verified(edit.db, finished, heads)["findings"] if row["check"] == "head"]
    assert "it was written anew" in found["line"]


def test_the_purged_record_holds(purged: Path, finished: Path) -> None:
    found = verified(purged, finished)
    assert (found["verdict"], found["findings"]) == ("holds", [])
    assert found["purged"] > 50


def test_after_a_purge_an_edit_of_any_column_is_found(edit: Edit, purged: Path, finished: Path) -> None:
    """One column of each table at a time."""
    for number in range(max(map(len, derived(finished).values()))):
        edit.restore(purged)
        expected = []
        for name, columns in derived(finished).items():
            if number < len(columns) and not columns[number]["pk"]:
                edit(f"UPDATE {name} SET {setting([columns[number]])} WHERE {first(name)}")
                expected.append((name, "changed"))
        found = verified(edit.db, finished)["findings"]
        assert sorted((row["table"], row["what"]) for row in found if row["check"] == "tables") == sorted(expected)


def test_after_a_purge_a_row_deleted_or_inserted_in_any_table_is_found(
    edit: Edit, purged: Path, finished: Path
) -> None:
    edit.restore(purged)
    expected = replace_rows(edit, finished)
    found = verified(edit.db, finished)["findings"]
    assert sorted((row["table"], row["what"]) for row in found if row["check"] == "tables") == expected
