"""A reader reads everything, changes nothing, and says in one line what is wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from flserver import events as e
from flserver.errors import UsageError
from flserver.store.reader import AcceptedNorms, IdSeeds, KnownClient, Reader
from flserver.store.schema import ensure_head
from flserver.store.writer import Writer
from tests import facts
from tests.nobody import as_nobody
from tests.store import story


@pytest.fixture
def reader(recorded: Path) -> Reader:
    return Reader(recorded)


@pytest.mark.parametrize(
    "sql",
    [
        "ATTACH '{other}' AS other",
        "VACUUM INTO '{other}'",
        "VACUUM",
        "INSERT INTO runs SELECT * FROM runs",
        "UPDATE runs SET status = 'completed'",
        "DELETE FROM events",
        "CREATE TABLE x (y)",
        "CREATE TEMP TABLE x (y)",
        "CREATE TEMP VIEW x AS SELECT 1",
        "DROP VIEW v1_runs",
        "ALTER TABLE runs ADD COLUMN x",
        "REINDEX",
        "ANALYZE",
        "SAVEPOINT x",
        "PRAGMA journal_mode = WAL",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA user_version = 7",
        "PRAGMA writable_schema = ON",
        "PRAGMA optimize",
        "PRAGMA temp_store_directory = '/tmp'",
        "SELECT load_extension('x')",
    ],
)
def test_whatever_would_write_is_refused(reader: Reader, recorded: Path, sql: str) -> None:
    before = recorded.read_bytes()
    with pytest.raises(UsageError, match=r"not authorized|prohibited|cannot VACUUM"):
        reader.query(sql.format(other=recorded.with_name("other")))
    assert recorded.read_bytes() == before
    assert [entry.name for entry in recorded.parent.iterdir()] == ["runs.sqlite"]


@pytest.mark.parametrize("sql", ["VACUUM INTO '{other}'", "ATTACH '{other}' AS other", "VACUUM"])
def test_the_end_of_the_transaction_opens_no_door(reader: Reader, recorded: Path, sql: str) -> None:
    with reader._connect() as connection:
        connection.exec_driver_sql("COMMIT")
        with pytest.raises(DBAPIError, match=r"authorization denied|not authorized"):
            connection.exec_driver_sql(sql.format(other=recorded.with_name("other")))
    assert [entry.name for entry in recorded.parent.iterdir()] == ["runs.sqlite"]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELEC 1", 'near "SELEC": syntax error'),
        ("SELECT * FROM nowhere", "no such table: nowhere"),
        ("SELECT 1; SELECT 2", "one statement at a time"),
        ("SELECT ?", "has no name"),
        ("SELECT :a", "value for binding"),
        ("SELECT '\ud800'", "surrogates not allowed"),
        ("SELECT 1 \0", "null character|unrecognized token"),
    ],
)
def test_bad_sql_is_a_usage_error_in_sqlites_words(reader: Reader, sql: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        reader.query(sql)


def test_query_reads_what_an_analyst_needs(reader: Reader) -> None:
    assert reader.query("SELECT name AS n, :x AS x FROM v1_runs WHERE run_id = :run", {"x": 5, "run": story.RUN}) == (
        ["n", "x"],
        [("night", 5)],
    )
    assert reader.query("SELECT key FROM v1_runs, json_each(config) ORDER BY key LIMIT 1")[1] == [("num_rounds",)]
    recursive = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 3) SELECT SUM(n) FROM t"
    assert reader.query(recursive)[1] == [(6,)]
    assert reader.query("PRAGMA integrity_check")[1] == [("ok",)]
    assert len(reader.query("PRAGMA table_info(v1_events)")[1]) == 7
    assert reader.query("") == ([], [])


def test_a_missing_or_foreign_file_is_a_usage_error(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    calls: list[Callable[[Reader], object]] = [Reader.runs, Reader.verify_chain, lambda r: r.query("SELECT 1")]
    for call in calls:
        with pytest.raises(UsageError, match="there is no database"):
            call(Reader(path))
    path.write_text("Dear diary, " * 100)
    for call in calls:
        with pytest.raises(UsageError, match="not a database"):
            call(Reader(path))
    path.write_bytes(b"")
    for call in calls:
        with pytest.raises(UsageError, match="no database of flserver"):
            call(Reader(path))


def test_runs_are_found_by_id_and_by_name(recorded: Path, reader: Reader) -> None:
    again = story.started("20260101-000000-000000", 3, "night")  # newer, whatever its id says
    story.write(recorded, again, process_id=3)
    assert [run["run_id"] for run in reader.runs()] == ["20260101-000000-000000", story.LEFT, story.RUN]
    assert reader.run("night")["run_id"] == "20260101-000000-000000"
    assert reader.run(story.RUN)["rounds_committed"] == 1
    for run, name in ((reader.newest_run(), "night"), (reader.newest_run("killed"), "killed")):
        assert run is not None
        assert run["name"] == name
    assert reader.newest_run("day") is None
    with pytest.raises(UsageError, match="no run 'day'"):
        reader.run("day")


def test_a_run_is_also_the_newest_or_the_one_whose_id_begins_so(recorded: Path, reader: Reader) -> None:
    assert reader.run()["run_id"] == reader.run("newest")["run_id"] == story.LEFT
    assert reader.run(story.RUN[:8])["run_id"] == story.RUN
    for ref in ("newest", story.RUN[:8], ""):
        with pytest.raises(UsageError, match=f"no run '{ref}'"):
            reader.run(ref, exact=True)
    with pytest.raises(
        UsageError, match=rf"'2026' is how the ids of 2 runs begin: {story.LEFT} \(killed\), {story.RUN}"
    ):
        reader.run("2026")
    with pytest.raises(UsageError, match="no run ''"):
        reader.run("")


def test_a_name_goes_before_the_beginning_of_an_id_and_before_newest(recorded: Path, reader: Reader) -> None:
    for run_id, name in (("r1", story.LEFT[:8]), ("r2", "newest"), ("r3", "other")):
        story.write(recorded, story.started(run_id, int(run_id[1]) + 5, name), process_id=int(run_id[1]) + 5)
    assert reader.run(story.LEFT[:8])["run_id"] == "r1"
    assert reader.run("newest")["run_id"] == "r2"
    assert reader.run()["run_id"] == "r3"


def test_many_candidates_are_counted(recorded: Path, reader: Reader) -> None:
    for number in range(5, 12):
        story.write(recorded, story.started(f"x{number}", number, f"n{number}"), process_id=number)
    with pytest.raises(UsageError, match=r"of 7 runs begin: x11 .*, x7 \(n7\) and 2 more"):
        reader.run("x")


def test_a_database_without_runs_says_so(tmp_path: Path) -> None:
    ensure_head(tmp_path / "new.sqlite")
    for ref in (None, "newest", "x"):
        with pytest.raises(UsageError, match="yet"):
            Reader(tmp_path / "new.sqlite").run(ref)


def test_a_runs_columns_are_the_views(reader: Reader) -> None:
    assert list(reader.run(story.RUN)) == reader.query("SELECT * FROM v1_runs")[0]


def test_what_a_resume_needs(recorded: Path, reader: Reader) -> None:
    last = reader.last_committed(story.RUN)
    assert last is not None
    assert (last["round"], last["attempt"], last["model_digest"]) == (1, 2, "sha256:1")
    assert last["checkpoint"] == f"{story.RUN}/round-000001-00.safetensors"
    assert reader.last_committed("none") is None
    assert [row["round"] for row in reader.committed_rounds(story.RUN)] == [0, 1]
    assert [reader.next_attempt(story.RUN, number) for number in (0, 1, 2)] == [2, 3, 1]
    assert (reader.min_updates(story.RUN), reader.min_updates(story.LEFT), reader.min_updates("none")) == (
        2,
        None,
        None,
    )
    assert reader.participants(story.RUN) == [
        KnownClient(client_id="1", data_size=150, registration=2, took_part=True),
        KnownClient(client_id="2", data_size=100, registration=1, took_part=True),
        KnownClient(client_id="3", data_size=100, registration=1, took_part=True),
    ]
    assert reader.id_seeds() == IdSeeds(message_id=108, connection_id=108, update_id=8, process_id=3)
    assert sorted(reader.left_over_runs()) == sorted([story.RUN, story.LEFT])
    story.write(recorded, [facts.run_left_over(story.LEFT)], process_id=3)
    assert reader.left_over_runs() == [story.RUN]


def test_how_far_accepted_updates_were_is_told_of_older_records_too(database: Path) -> None:
    reader = Reader(database)
    assert reader.accepted_norms(story.RUN) == AcceptedNorms(rounds=0, parameters=0.0, buffers=0.0)
    measured = {"update_norm": 5.0, "parameters_norm": 3.0, "buffers_norm": 4.0}
    rounds = [
        facts.attempt(1, clients=("1", "2")),
        facts.update(1, "1", **measured),
        facts.update(2, "2", **measured | {"parameters_norm": 9.0}),
        facts.suspect_rejected(2, "2"),
        facts.committed(1, outcomes=[facts.answered("1", 1, 1.0), facts.answered("2")]),
    ]
    sources = [*story.started(), *story.registered("1", 1), *story.registered("2", 2)]
    story.write(database, [*sources, *rounds])
    assert reader.accepted_norms(story.RUN) == AcceptedNorms(rounds=1, parameters=3.0, buffers=4.0)
    older = [
        facts.attempt(2, clients=("1",)),
        facts.update(3, "1", (2, 1), update_norm=3.5),
        facts.committed(2, outcomes=[facts.answered("1", 3, 1.0)]),
    ]
    story.write(database, older)
    assert reader.accepted_norms(story.RUN) == AcceptedNorms(rounds=2, parameters=3.5, buffers=4.0)
    assert reader.accepted_norms(story.RUN, 1) == AcceptedNorms(rounds=1, parameters=3.0, buffers=4.0)
    child = facts.run_started("child", "night", config={"resume_from": 1}, parent_run_id=story.RUN, parent_round=1)
    story.write(database, [child], run_id="child", process_id=2)
    assert reader.accepted_norms("child") == AcceptedNorms(rounds=1, parameters=3.0, buffers=4.0)
    other = facts.run_started("other", "night", config={}, parent_run_id=story.RUN, parent_round=1)
    story.write(database, [other], run_id="other", process_id=3)
    assert reader.accepted_norms("other").rounds == 0, "initial weights alone are no history"


def test_who_left_before_a_join_window_closed_has_not_taken_part(recorded: Path, reader: Reader) -> None:
    run = "20260301-090000-abcdef"
    window = [*story.started(run, 4), *story.registered("visitor", 21), facts.left("visitor", connection_id=21)]
    window += [*story.registered("visitor", 22, 2), facts.left("visitor", "reset", registration=2, connection_id=22)]
    window += [*story.registered("stays", 23), *story.registered("goes later", 24)]
    story.write(recorded, window, run_id=run, process_id=4)
    assert not any(client.took_part for client in reader.participants(run)), "the window is open"
    closed = [facts.quorum_settled(), facts.left("goes later", connection_id=24), *story.registered("late", 25)]
    closed += [facts.left("late", connection_id=25), facts.attempt(1, 1, ("stays",), not_sent=("owing",))]
    story.write(recorded, closed, run_id=run, process_id=4)
    found = {client.client_id: (client.registration, client.took_part) for client in reader.participants(run)}
    assert found == {"goes later": (1, True), "late": (1, False), "stays": (1, True), "visitor": (2, False)}
    story.write(recorded, [facts.quorum_settled(), facts.run_ended()], run_id=run, process_id=4)
    assert not reader.participants(run)[1].took_part, "a later window closed without it"


def test_ids_of_a_new_database_begin_at_1(database: Path) -> None:
    assert Reader(database).id_seeds() == IdSeeds(message_id=1, connection_id=1, update_id=1, process_id=1)


def test_totals(recorded: Path, reader: Reader) -> None:
    totals = reader.totals(story.RUN)
    assert totals.rounds == {"committed": 2, "aborted": 1}
    assert totals.connections == {"register": 1 + 7, "upload": 6, "unknown": 1 + 7}
    assert totals.messages == {
        ("in", "<MODEL>", "ok"): 6,
        ("in", r"<\ud800>", "refused"): 1,
        ("out", "<MODEL>", "ok"): 5,
        ("in", "<METADATA>", "refused"): 6,
        ("out", "<ERROR>", "ok"): 4,
        ("out", "<ERROR>", "failed"): 1,
    }
    models = {("in", "<MODEL>"): 6048, ("in", r"<\ud800>"): 8, ("out", "<MODEL>"): 5040}
    assert totals.message_bytes == models | {("in", "<METADATA>"): 360, ("out", "<ERROR>"): 320}
    assert totals.updates == {"accepted": 2, "late": 1, "duplicate": 1, "rejected": 1, "aborted": 1}
    assert totals.rejected == {"shape: fc1.weight is (1,)": 1}
    assert totals.dropouts == {"reset": 1}
    assert totals.rejoins == 1
    assert Reader(recorded).totals(story.LEFT).updates == {}  # its one update has no decision yet
    assert totals.events == len(story.whole_run())
    assert sorted(totals.round_seconds) == [2.0, 4.0, 4.0]
    assert {phase: sorted(seconds) for phase, seconds in totals.phase_seconds.items()} == {
        "broadcast": [0.5, 0.5, 0.5],
        "wait": [1.5, 3.0, 3.0],
        "aggregate": [0.25, 0.25],
        "evaluate": [],
        "checkpoint": [0.125, 0.125],
    }
    assert list(totals.client_seconds) == [3.0] * 4
    assert list(totals.checkpoint_seconds) == [0.125] * 2


def test_a_reader_works_while_the_server_writes(database: Path) -> None:
    writer = Writer(database, run_id=story.RUN, process_id=1)
    writer.start(**story.QUIET)
    reader = Reader(database)
    for number, event in enumerate(story.whole_run(), 1):
        writer.emit(event)
        writer.flush()
        assert reader.query("SELECT MAX(seq) FROM v1_events")[1] == [(number,)]
    writer.close()


def test_one_call_sees_one_state(database: Path) -> None:
    writer = Writer(database, run_id=story.RUN, process_id=1)
    writer.start(**story.QUIET)
    with Reader(database)._connect() as connection:
        count = "SELECT COUNT(*) FROM v1_events"
        assert connection.exec_driver_sql(count).scalar() == 0
        writer.emit(e.StateChanged(state="joining"))
        writer.flush()
        assert connection.exec_driver_sql(count).scalar() == 0
        assert Reader(database).query(count)[1] == [(1,)]
    writer.close()


READ = """
print(len(Reader(path).runs()), Reader(path).verify_chain().problems)
"""


def test_somebody_elses_cleanly_stopped_database_can_be_read(public: Path) -> None:
    path = public / "runs.sqlite"
    ensure_head(path)
    story.write(path, story.whole_run())
    path.chmod(0o444)
    public.chmod(0o555)
    assert as_nobody(READ, path) == "1 ()\n"
