"""The soak that CI makes, and that a soak finds what it is there to find."""

import random
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from flserver import events as e
from flserver.store.schema import ensure_head
from tests import facts
from tests.e2e.agreement import disagreements
from tests.e2e.conftest import Start
from tests.e2e.harness import Peer, sql
from tests.patience import PATIENCE
from tests.soak.judge import judge_left, judge_memory
from tests.soak.machine import judge_files
from tests.soak.members import PLACES, TRIED
from tests.soak.models import astray, by_digest, digest, judge_models
from tests.soak.record import judge_record, judge_rounds
from tests.soak.run import soak
from tests.soak.samples import MB, Sample
from tests.soak.trainers import NEVER, OUTVOTED, TOO_FAR
from tests.store import story

CONNECTIONS = 2000
HOSTILE = {"becomes_much", "lingers", "locks", "occupies", "passes_for", "says_nasty", "stalls_at_metrics"}
HOSTILE |= {"boasts", "claims", "poisons", "repeats", "takes_places", "takes_turns", "visits", "writes_much"}


def test_two_thousand_connections_leave_nothing_but_rows(tmp_path: Path) -> None:
    report = soak(CONNECTIONS, seed=0, folder=tmp_path)
    assert report.findings == []
    figures = report.figures
    assert figures["connections"] == figures["rows"]["connections"] + figures["summed"] >= CONNECTIONS  # type: ignore[index,operator]
    assert figures["summed"] > CONNECTIONS / 8  # type: ignore[operator]
    assert figures["rounds"] == CONNECTIONS / 20
    assert figures["decisions"].keys() >= {"accepted", "duplicate", "rejected"}  # type: ignore[attr-defined]
    assert figures["refused"] > CONNECTIONS / 4  # type: ignore[operator]
    assert figures["failed"] > CONNECTIONS / 8  # type: ignore[operator]
    hostile: dict[str, dict[str, int]] = figures["hostile"]  # type: ignore[assignment]
    assert hostile.keys() == HOSTILE
    assert all(count > 0 for answers in hostile.values() for count in answers.values())
    assert hostile["takes_turns"]["was let go"] >= PLACES
    assert hostile["takes_places"]["was refused"] == TRIED - PLACES
    assert "was there twice" not in hostile["takes_turns"]
    assert hostile["poisons"].keys() <= OUTVOTED.keys() | TOO_FAR.keys() | NEVER.keys()
    assert all(hostile["poisons"].keys() & kinds.keys() for kinds in (OUTVOTED, TOO_FAR, NEVER))
    assert len(hostile["locks"]) == 3


# --- it finds --------------------------------------------------------------------------------------------------------


def samples(connections: int, leak: float) -> list[Sample]:
    """One at every percent: a warm-up in the first tenth, 1 MB of noise, and ``leak`` bytes a connection."""
    noise = random.Random(0)
    made = []
    for percent in range(1, 101):
        count = connections * percent // 100
        memory = 320 * MB + min(percent, 10) * MB + noise.uniform(0, 1) * MB + leak * count
        made.append(Sample(connections=count, threads=30, descriptors=90, anonymous=int(memory), resident=int(memory)))
    return made


@pytest.mark.parametrize(
    ("connections", "leak", "found"),
    [(20_000, 0, False), (20_000, 1000, True), (20_000, 500, True), (2000, 0, False), (2000, 4000, True)],
)
def test_memory_that_grows_with_the_connections_is_found(connections: int, leak: int, found: bool) -> None:
    findings = judge_memory(samples(connections, leak))
    assert bool(findings) == found
    assert all("after the warm-up" in finding for finding in findings)


def test_a_jump_in_the_connections_is_no_gap_in_what_is_compared() -> None:
    jumped = [replace(s, connections=s.connections + 500 * (n >= 40)) for n, s in enumerate(samples(2000, 0))]
    assert judge_memory(jumped) == []


@pytest.mark.parametrize("what", ["threads", "descriptors"])
def test_one_that_is_left_is_found(what: str) -> None:
    before = samples(2000, 0)[0]
    assert judge_left("then", before, before) == []
    assert judge_left("then", before, replace(before, **{what: getattr(before, what) - 1})) == []
    (finding,) = judge_left("then", before, replace(before, **{what: getattr(before, what) + 1}))
    assert finding.startswith(f"1 {what} are left")


DONE = {"registrations": 2, "uploads": 2}
PORTS = Counter({40000: 4})


def trainer(number: int) -> tuple[list[e.Event], list[e.Event]]:
    """How one comes, and how it goes."""
    client = str(number)
    comes = [
        *story.registered(client, number),
        facts.received(number, connection_id=number, client_id=client, digest="blake3:dd"),
    ]
    goes: list[e.Event] = [
        facts.left(client, "closed", number),
        facts.closed(number, "register", client, bytes_in=58, bytes_out=1008),
    ]
    return comes, goes


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """Two trainers, one round, and all that began has ended."""
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    (first_comes, first_goes), (second_comes, second_goes) = trainer(1), trainer(2)
    events = [
        *story.started(),
        facts.attempt(0),
        facts.committed(0),
        *first_comes,
        *second_comes,
        facts.attempt(1, 1, ("1", "2")),
        *story.uploaded(1, "1", (1, 1)),
        *story.uploaded(2, "2", (1, 1)),
        facts.committed(1, 1, [facts.answered("1", 1, 0.5), facts.answered("2", 2, 0.5)]),
        *first_goes,
        *second_goes,
        facts.run_ended("interrupted"),
        facts.server_stopped(3),
    ]
    story.write(path, events)
    return path


def test_a_record_of_what_was_done_is_found_good(record: Path) -> None:
    assert judge_record(partial(sql, record), PORTS, DONE, 1) == []


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ("UPDATE connections SET closed_at = NULL WHERE connection_id = 1", "1 connections have no end"),
        ("UPDATE clients SET left_at = NULL WHERE client_id = '1'", "1 registrations have no end"),
        ("UPDATE updates SET decision = NULL WHERE update_id = 1", "1 updates have no end"),
        ("UPDATE rounds SET ended_at = NULL WHERE round = 1", "1 attempts have no end"),
        ("UPDATE client_rounds SET participation = NULL WHERE client_id = '1'", "1 clients' rounds have no end"),
        ("UPDATE runs SET ended_at = NULL", "1 runs have no end"),
        (
            "UPDATE connections SET close_reason = 'server error: x' WHERE connection_id = 1",
            "1 connections ended by a defect, or were not served",
        ),
        (
            "INSERT INTO messages SELECT 9, run_id, connection_id, NULL, NULL, direction, NULL, encoding, bytes, NULL,"
            " at, seconds, 'refused', '' FROM messages WHERE message_id = 1",
            "1 messages were refused or failed without a reason",
        ),
        ("UPDATE messages SET connection_id = 9 WHERE message_id = 1", "1 messages belong to no connection"),
        (
            "UPDATE messages SET outcome = 'failed', reason = 'x' WHERE message_id = 1",
            "3 messages that came in were ok, 4 were honest",
        ),
        (
            "UPDATE updates SET counted_size = 9 WHERE update_id = 1",
            "1 rounds are not the sum of their updates' samples",
        ),
        (
            "INSERT INTO round_metrics VALUES ('20260131-090000-abcdef', 1, 'accuracy', 'clients', 1e100, NULL)",
            "1 means are of what cannot be so",
        ),
        ("DELETE FROM clients WHERE client_id = '1'", "the trainers made 2 registrations, v1_clients has 1"),
        ("DELETE FROM updates WHERE update_id = 1", "the trainers made 2 uploads, v1_updates has 1"),
        ("DELETE FROM rounds WHERE round = 1", "1 rounds were answered, 0 are committed"),
        (
            "UPDATE rounds SET status = 'aborted' WHERE round = 0",
            "1 attempts were aborted while enough trainers answered",
        ),
    ],
)
def test_a_record_that_is_not_what_was_done_is_found(record: Path, change: str, finding: str) -> None:
    with closing(sqlite3.connect(record)) as database, database:
        assert database.execute(change).rowcount == 1
    assert judge_record(partial(sql, record), PORTS, DONE, 1) == [finding]


def test_a_trainer_that_is_not_in_time_and_a_taker_of_turns_that_is_asked_too_often_are_found(record: Path) -> None:
    ask = partial(sql, record)
    assert judge_rounds(ask, ["1", "2"], ["3"], 1) == []
    assert judge_rounds(ask, ["1", "3"], [], 1) == ["trainer 3 answered 1 rounds, and had 0 of them in time"]
    with closing(sqlite3.connect(record)) as database, database:
        database.execute("UPDATE client_rounds SET participation = 'timed_out', decision = NULL WHERE client_id = '2'")
        _, _, _, *columns = [name for _, name, *_ in database.execute("PRAGMA table_info(client_rounds)")]
        again = f"SELECT run_id, round + ?, attempt, {', '.join(columns)} FROM client_rounds WHERE client_id = '1'"
        for further in (1, 2):
            database.execute(f"INSERT INTO client_rounds {again} AND round = 1", (further,))
    assert judge_rounds(ask, ["2"], ["1"], 1) == [
        "trainer 2 answered 1 rounds, and had 0 of them in time",
        "rounds were held up to their deadline: 1 clients timed out",
        "1 was invited to 3 of 1 rounds, which it held up; 2 are allowed",
    ]


def test_a_model_that_is_not_the_mean_of_what_the_honest_sent_is_found() -> None:
    states = {str(number): {"w": torch.full((3,), float(number))} for number in (1, 2, 3)}
    sent = {client: by_digest(state) for client, state in states.items()}
    update = {client: next(iter(own)) for client, own in sent.items()} | {"mallory": "blake3:00"}
    of_two, alone = digest({"w": torch.full((3,), 1.75)}), digest(states["2"])

    def found(*rows: tuple[int, str, str, int]) -> list[str]:
        made = [(round, model, client, update[client], counted) for round, model, client, counted in rows]
        return judge_models(made, sent, [*states.values()])

    rows = [(1, of_two, "1", 1), (1, of_two, "2", 3), (2, alone, "2", 7)]
    assert found(*rows) == []
    assert found((1, of_two, "1", 1), (1, of_two, "2", 2)) == ["round 1 is not the mean of what 1, 2 sent"]
    assert found(*rows, (2, alone, "mallory", 1)) == ["round 2 accepted an update of mallory"]
    update["2"] = update["3"]
    assert found(*rows) == ["round 1 accepted an update of 2", "round 2 accepted an update of 2"]


def test_a_counter_and_a_mask_that_one_client_decided_are_found() -> None:
    honest = [{"n": torch.tensor(8 * k), "on": torch.tensor([True, False])} for k in (1, 2)]
    poisons = {"n": torch.tensor(2**62), "on": torch.tensor([False, False])}
    sent = {name: by_digest(state) for name, state in zip("abz", (*honest, poisons), strict=True)}

    def found(model: dict[str, torch.Tensor], clients: str) -> list[str]:
        rows = [(1, digest(model), client, next(iter(sent[client])), 1) for client in clients]
        return judge_models(rows, sent, honest)

    assert found({"n": torch.tensor(16), "on": torch.tensor([True, False])}, "abz") == []
    assert found({"n": torch.tensor(8), "on": torch.tensor([True, False])}, "abz") == [
        "round 1 is not the mean of what a, b, z sent"
    ]
    assert astray(poisons, honest) == ["n", "on"]
    assert found(poisons, "z") == [], "whoever answers alone outvotes nobody"


def test_a_file_that_is_open_to_more_is_found(tmp_path: Path) -> None:
    checkpoints = tmp_path / "runs.sqlite.checkpoints" / "run"
    for folder in (checkpoints.parent, checkpoints):
        folder.mkdir(mode=0o750)
    files = [tmp_path / "runs.sqlite", tmp_path / "runs.sqlite-shm", checkpoints / "round-1"]
    for file in files:
        file.touch(0o640)
    assert judge_files(files[0]) == []
    for file in files[1:]:
        file.chmod(0o644)
    assert judge_files(files[0]) == ["runs.sqlite-shm is open to more: 644", "round-1 is open to more: 644"]


def test_connections_without_a_row_and_rows_without_one_are_found(record: Path) -> None:
    others = Counter({40000: 3, 40001: 2})
    assert judge_record(partial(sql, record), others, DONE, 1) == [
        "2 of 5 connections have no row, 0 are summed",
        "1 rows are of connections that nobody made",
    ]


def test_a_counter_that_is_not_what_sql_says_is_found(start: Start) -> None:
    server = start("--num-rounds", "1", "--time-to-wait", "0", "--metrics-linger", str(PATIENCE))
    with Peer(server, "a").join() as peer:
        peer.answer()
        peer.finished()
    server.wait_for_line("metrics stay")
    assert disagreements(server) == []
    with closing(sqlite3.connect(server.db)) as database, database:
        database.execute("UPDATE messages SET bytes = bytes + 1 WHERE header = '<METADATA>'")
        database.execute("UPDATE updates SET decision = 'late'")
    assert [line.partition(" says ")[2].partition("{")[0] for line in disagreements(server)] == [
        "flserver_message_bytes_total",
        "flserver_updates_total",
        "flserver_updates_total",
    ]
    assert server.terminate() == 0
