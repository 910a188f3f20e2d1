"""A purge takes what it says and nothing else, leaves no trace of it in any file, and the record goes on to hold."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flserver.store.lock import DatabaseLock
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from flserver.store.writer import Writer
from tests import facts
from tests.audit.conftest import verified
from tests.cli.conftest import Run, lines, refused
from tests.cli.conftest import flserver as flserver
from tests.recorded_run import RUN, write_database
from tests.store import story

OUTSIDE = (
    "192.0.2.7",
    "10.0.0.7",
    "commonName=1",
    "a length of 5 GB",
    "fc1.weight is (1,)",
    "Fjord hospital",
    "10.0.0.0/24",
)
Ask = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A whole run, and one whose server was killed."""
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    hospital = facts.registered("9", 9, info={"site": "Fjord hospital"})
    story.write(path, [*story.sound_run()[:-3], facts.opened(9), hospital, *story.sound_run()[-3:]])
    story.write(path, story.left_over(), run_id=story.LEFT, process_id=2)
    return path


@pytest.fixture
def ask(db: Path) -> Ask:
    def run(sql: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(db)) as connection, connection:
            return connection.execute(sql, values).fetchall()

    return run


def traces(db: Path) -> set[str]:
    """Which of the texts from outside any file in the database's folder holds."""
    held = b"".join(path.read_bytes() for path in db.parent.iterdir() if path.is_file())
    return {text for text in OUTSIDE if text.encode() in held}


def test_without_yes_it_is_only_said_what_would_go(flserver: Run, db: Path) -> None:
    before = db.read_bytes()
    said = lines(flserver("--db", db, "purge", "--what", "payloads", "--run", "night"))
    assert said[0].startswith("run night (20260131-090000-abcdef): the payloads of ")
    assert said[-1] == "nothing was purged: --yes does it, and there is no way back"
    assert db.read_bytes() == before


def test_what_was_purged_is_in_no_file_and_the_record_holds(flserver: Run, db: Path, ask: Ask) -> None:
    assert traces(db) == set(OUTSIDE)
    numbers = "SELECT update_id, client_id, data_size, weight, update_digest, decision FROM updates"
    before = ask(numbers)
    said = ("--actor", "dpo", "--reason", "retention is over")
    lines(flserver("--db", db, "purge", "--what", "payloads", "--run", "night", "--yes", *said))
    assert traces(db) - {"192.0.2.7"} == set(), "the other run has an address"
    lines(flserver("--db", db, "purge", "--what", "payloads", "--run", "killed", "--yes"))
    assert traces(db) == set()
    assert ask(numbers)[:6] == before[:6]
    assert Reader(db).totals(facts.RUN).rejected == {"shape": 1}, "the kind of a reason stays"
    assert Reader(db).totals(facts.RUN).messages.keys() >= {("in", "<MODEL>", "ok")}
    (acts, _) = ask("SELECT kind, actor, reason FROM v1_operator_events WHERE kind = 'purge' ORDER BY at")
    assert acts == ("purge", "dpo", "retention is over")
    runs = ask("SELECT detail ->> 'run' FROM v1_operator_events WHERE kind = 'purge' ORDER BY at")
    assert runs == [(facts.RUN,), (story.LEFT,)], "whatever a name means later"
    found = verified(db)
    assert (found["verdict"], found["findings"]) == ("holds", [])
    assert found["purged"] == ask("SELECT COUNT(*) FROM events WHERE payload IS NULL")[0][0] > 40
    assert found["counts"]["holds"]["purges"] == 1


def test_a_record_that_goes_on_after_a_purge_holds(flserver: Run, db: Path) -> None:
    lines(flserver("--db", db, "purge", "--what", "payloads", "--run", "night", "--yes"))
    more = [facts.run_resumed(), facts.server_started(7, resumed_from_round=1), *story.registered("7", 70)]
    story.write(db, more, process_id=7)
    assert verified(db)["verdict"] == "holds"
    lines(flserver("--db", db, "purge", "--what", "payloads", "--run", "night", "--yes"))
    assert verified(db)["verdict"] == "holds"


def test_of_one_client_goes_what_is_about_it_alone(flserver: Run, db: Path, ask: Ask) -> None:
    lines(flserver("--db", db, "purge", "--what", "payloads", "--client", "9", "--yes"))
    assert ask("SELECT info, registration, data_size FROM clients WHERE client_id = '9'") == [(None, 1, 100)]
    assert ask("SELECT COUNT(*) FROM clients WHERE info IS NULL") == [(1,)]
    assert ask("SELECT type FROM events WHERE payload IS NULL ORDER BY seq") == [
        ("ConnectionOpened",),
        ("ClientRegistered",),
    ]
    assert "Fjord hospital" not in traces(db)
    assert verified(db)["verdict"] == "holds"


def test_of_what_is_older_goes_the_older(flserver: Run, db: Path, ask: Ask) -> None:
    assert lines(flserver("--db", db, "purge", "--what", "payloads", "--before", "2020-01-31")) == [
        "there is nothing to purge"
    ]
    (middle,) = ask("SELECT at FROM events WHERE type = 'UpdateReceived' ORDER BY seq LIMIT 1 OFFSET 3")[0]
    lines(flserver("--db", db, "purge", "--what", "payloads", "--before", middle, "--yes"))
    assert ask("SELECT COUNT(*) FROM events WHERE payload IS NULL AND at >= ?", middle) == [(0,)]
    assert ask("SELECT COUNT(*) FROM events WHERE payload IS NULL")[0][0] > 10
    assert verified(db)["findings"] == []


def test_a_payload_that_is_gone_without_a_purge_cannot_be_told(db: Path, ask: Ask) -> None:
    ask("UPDATE events SET payload = NULL, salt = NULL WHERE type = 'Waited'")
    found = verified(db)
    assert (found["verdict"], found["exit_code"]) == ("cannot be told", 2)
    (line,) = [finding["line"] for finding in found["findings"]]
    assert line.startswith("the payloads of 1 events are gone, and no purge is on record")


def test_a_purge_covers_no_more_than_it_lists(flserver: Run, db: Path, ask: Ask) -> None:
    lines(flserver("--db", db, "purge", "--what", "payloads", "--client", "9", "--yes"))
    ask("UPDATE events SET payload = NULL, salt = NULL WHERE type = 'Waited'")
    assert verified(db)["counts"]["cannot be told"] == {"purges": 1}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "purge takes one of --run, --before and --client"),
        (("--run", "night", "--client", "1"), "purge takes one of --run, --before and --client"),
        (("--run", "day"), "has no run 'day'"),
        (("--before", "yesterday"), "--before yesterday: no date"),
    ],
)
def test_a_run_is_never_implied(flserver: Run, db: Path, arguments: tuple[str, ...], reason: str) -> None:
    refused(flserver("--db", db, "purge", "--what", "payloads", "--yes", *arguments), reason)


def test_while_a_server_has_the_database_nothing_is_purged(flserver: Run, db: Path) -> None:
    with DatabaseLock(db):
        refused(flserver("--db", db, "purge", "--what", "payloads", "--run", "night"), "another flserver has")


def test_what_is_retained_stays_until_its_date(flserver: Run, db: Path, ask: Ask) -> None:
    resumed = facts.run_resumed(config={"retain_until": "2999-01-31"})
    story.write(db, [resumed, facts.run_ended("completed")], process_id=5)
    refused(
        flserver("--db", db, "purge", "--what", "payloads", "--run", "night", "--yes"), "is retained until 2999-01-31"
    )
    said = lines(flserver("--db", db, "purge", "--what", "payloads", "--before", "2998-01-01", "--yes"))
    assert said[-2:] == [
        "run night (20260131-090000-abcdef) is retained until 2999-01-31T00:00:00.000000Z: it stays",
        "purged",
    ]
    assert ask("SELECT DISTINCT run_id FROM events WHERE payload IS NULL") == [(story.LEFT,)]
    passed = facts.run_resumed(config={"retain_until": "2020-01-31"})
    story.write(db, [passed, facts.run_ended("completed")], process_id=6)
    lines(flserver("--db", db, "purge", "--what", "payloads", "--run", "night", "--yes"))
    assert traces(db) == set()


def test_copies_from_before_an_upgrade_are_named(flserver: Run, db: Path) -> None:
    copy = db.with_name(f"{db.name}.before-0009")
    copy.touch()
    said = lines(flserver("--db", db, "purge", "--what", "payloads", "--run", "night"))
    assert f"{copy} is from before an upgrade, and keeps what it has: delete it yourself" in said


def test_checkpoints_go_but_the_newest_of_a_run_that_can_be_resumed(flserver: Run, tmp_path: Path) -> None:
    db = tmp_path / "two.sqlite"
    write_database(db)
    files = db.with_name(f"{db.name}.checkpoints")
    said = lines(flserver("--db", db, "purge", "--what", "checkpoints", "--before", "2999-01-31", "--yes"))
    assert any("run plain: round 0 stays, from which it can be resumed" in line for line in said)
    assert list((files / RUN).glob("*.safetensors")) == [], "that run is complete"
    assert len(list(files.rglob("*.safetensors"))) == 1
    with closing(sqlite3.connect(db)) as connection:
        deleted = connection.execute("SELECT COUNT(*) FROM rounds WHERE checkpoint_deleted_at IS NOT NULL").fetchone()
    assert deleted == (4,)
    assert lines(flserver("--db", db, "verify"))[-1] == "all 6 checks hold"
    refused(
        flserver("--db", db, "purge", "--what", "checkpoints", "--client", "1"), "a checkpoint is no single client's"
    )


def test_what_a_killed_server_left_beside_the_database_holds_nothing_either(
    flserver: Run, db: Path, tmp_path: Path
) -> None:
    left = tmp_path / "left"
    left.mkdir()
    writer = Writer(db, run_id=story.LEFT, process_id=4)
    writer.start(**story.QUIET)
    for event in (facts.opened(90), facts.registered("90", 90, info={"site": "Fjord hospital"})):
        writer.emit(event)
    writer.flush()
    for end in ("", "-wal"):
        shutil.copy(f"{db}{end}", left)
    writer.close()
    copied = left / db.name
    assert traces(copied) == set(OUTSIDE)
    lines(flserver("--db", copied, "purge", "--what", "payloads", "--before", "2999-01-31", "--yes"))
    assert traces(copied) == set()
    assert {path.name for path in left.iterdir()} == {"runs.sqlite", "runs.sqlite.lock"}
    assert verified(copied)["verdict"] == "holds"


def test_where_nodes_were_stays_and_what_they_served_is_still_counted(flserver: Run, db: Path, ask: Ask) -> None:
    served = [facts.opened(71, node="node-7"), facts.received(71, connection_id=71, bytes=9)]
    told = [facts.node_started(7), *served, facts.strangers_summed(node="node-7"), facts.node_ended(node="node-7")]
    story.write(db, told, process_id=7)
    nodes, of_it = "SELECT * FROM v1_nodes ORDER BY node", "SELECT host, listen_host, connections, bytes_in"
    before = ask(nodes)
    lines(flserver("--db", db, "purge", "--what", "payloads", "--run", "night", "--yes"))
    assert ask(nodes) == before
    strangers = facts.strangers_summed()
    counts = (1 + strangers.connections, 9 + strangers.message_bytes)
    assert ask(f"{of_it} FROM v1_nodes WHERE node = 'node-7'") == [("fl-b", "10.0.0.2", *counts)]
    assert ask("SELECT node, peer_host FROM v1_connections WHERE connection_id = 71") == [("node-7", None)]
    assert verified(db)["verdict"] == "holds"
    ask("UPDATE nodes SET host = 'another' WHERE node = 'node-7'")
    assert verified(db)["verdict"] == "does not hold"
