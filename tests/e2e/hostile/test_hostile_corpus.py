"""The hostile corpus against a real server, while three honest trainers train.

One run with every input, one without any. The honest trainers answer the same in both.
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree
from sqlite3 import Row, connect

import pytest

from tests.e2e.harness import TESTS, sql
from tests.e2e.hostile.attack import Attack
from tests.e2e.hostile.campaign import RECEIVE_MEMORY, ROUNDS, TRAPS, Campaign, run
from tests.e2e.hostile.claims import HONEST
from tests.e2e.hostile.corpus import EVERYTHING, INPUTS, SPEECHES, UPLOADS
from tests.e2e.hostile.inputs import CLASSES, Input, Speech, Then, Turn, Upload
from tests.patience import PATIENCE

LEAST = 150
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING) ")
A_CONNECTION = 64 * 1024  # bytes that each may use before it asks the budget
# One pickle at a time is decoded here. PickleLimits says what its tree may take, and the nested files' trees once more.
ALLOWANCE = 2 * 25 * 10**6


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """The run without any hostile input."""
    return run(tmp_path_factory.mktemp("control"), attacked=False)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """The run with all of them."""
    return run(tmp_path_factory.mktemp("attacked"), attacked=True)


@dataclass
class Trace:
    """What is on record of one connection."""

    connection: Row
    messages: list[Row] = field(default_factory=list)
    updates: list[Row] = field(default_factory=list)


@pytest.fixture(scope="module")
def record(attacked: Campaign) -> dict[tuple[str, int], Trace]:
    """The traces of all connections by where they came from."""
    with closing(connect(f"file:{attacked.db}?mode=ro", uri=True)) as database:
        database.row_factory = Row
        rows = database.execute("SELECT * FROM v1_connections ORDER BY connection_id").fetchall()
        by_id = {row["connection_id"]: Trace(row) for row in rows}
        for row in database.execute("SELECT * FROM v1_messages WHERE direction = 'in' ORDER BY message_id"):
            by_id[row["connection_id"]].messages.append(row)
        for row in database.execute("SELECT * FROM v1_updates ORDER BY update_id"):
            by_id[row["connection_id"]].updates.append(row)
    places = {(row["peer_host"], row["peer_port"]): by_id[row["connection_id"]] for row in rows}
    tracked = Counter((row["peer_host"], row["peer_port"]) for row in rows)
    assert all(tracked[sent.host, sent.port] == 1 for sent in attacked.sent.values()), "rows cannot be told apart"
    return places


# --- the corpus itself -----------------------------------------------------------------------------------------------


def test_the_corpus_is_large_and_of_every_class() -> None:
    assert len(EVERYTHING) >= LEAST
    names = Counter(hostile.name for hostile in EVERYTHING)
    assert [name for name, count in names.items() if count > 1] == []
    classes = Counter(hostile.klass for hostile in EVERYTHING)
    assert set(classes) == set(CLASSES)
    assert min(classes.values()) >= 20


def test_what_is_said_to_run_code_runs_it_in_a_plain_reader(tmp_path: Path) -> None:
    copytree(TRAPS, tmp_path, dirs_exist_ok=True)
    assert sum(hostile.armed for hostile in INPUTS) > 60
    done = python(tmp_path, "-m", "tests.e2e.hostile.plain_reader")
    assert json.loads(done.stdout.splitlines()[-1]) == [], done.stderr


# --- each input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hostile", INPUTS, ids=lambda hostile: hostile.name)
def test_an_outsiders_input_is_on_record_with_its_reason(
    attacked: Campaign, record: dict[tuple[str, int], Trace], hostile: Input
) -> None:
    sent = attacked.sent[hostile.name]
    trace = record[sent.host, sent.port]
    assert trace.updates == []
    assert len(sent.answer) < 1000, "no model, whoever asks"
    if hostile.outcome == ("none",):
        assert trace.messages == []
        assert re.search(hostile.reason, trace.connection["close_reason"])
        return
    (message,) = trace.messages
    assert message["outcome"] in hostile.outcome, message["reason"]
    assert re.search(hostile.reason, message["reason"]), message["reason"]
    assert trace.connection["close_reason"] == message["reason"], "the last thing that happened on it"
    assert 0 < message["bytes"] <= len(hostile.wire)
    if hostile.answer is not None:
        assert json.loads(sent.answer[8:])["header"] == hostile.answer
        assert int.from_bytes(sent.answer[:8], "big") == len(sent.answer) - 8


@pytest.mark.parametrize("hostile", UPLOADS, ids=lambda hostile: hostile.name)
def test_a_participants_upload_is_on_record_with_what_was_decided(
    attacked: Campaign, record: dict[tuple[str, int], Trace], hostile: Upload
) -> None:
    sent = attacked.sent[hostile.name]
    trace = record[sent.host, sent.port]
    (message,) = trace.messages
    assert sent.answer == b""
    (update,) = trace.updates
    if hostile.decision is None:  # it cannot be used, and answers its model all the same
        assert (message["outcome"], message["round"]) == ("refused", update["answers_round"])
        assert re.search(hostile.reason, message["reason"]), message["reason"]
        assert update["update_digest"] is None
        decided = {Turn.ANSWERED: "duplicate", Turn.LATE: "late"}.get(hostile.turn, "rejected")
        assert update["decision"] == decided
        assert decided != "rejected" or re.match("(unreadable|size): ", update["reason"])
        return
    assert (message["outcome"], message["reason"]) == ("ok", None)
    assert (update["message_id"], update["weight"]) == (message["message_id"], None)
    assert update["decision"] == hostile.decision, update["reason"]
    assert re.search(hostile.reason, update["reason"]), update["reason"]


@pytest.mark.parametrize("hostile", SPEECHES, ids=lambda hostile: hostile.name)
def test_a_participant_that_speaks_out_of_turn_is_let_go(
    attacked: Campaign, record: dict[tuple[str, int], Trace], hostile: Speech
) -> None:
    sent = attacked.sent[hostile.name]
    trace = record[sent.host, sent.port]
    registration, message = trace.messages
    assert (registration["header"], registration["outcome"]) == ("<METADATA>", "ok")
    assert message["outcome"] == "refused"
    assert re.search(hostile.reason, message["reason"]), message["reason"]
    left = sql(
        attacked.db,
        "SELECT left_reason FROM v1_clients WHERE connection_id = ?",
        trace.connection["connection_id"],
    )
    assert left == [("protocol",)]


# --- the others ------------------------------------------------------------------------------------------------------


def test_nothing_that_was_sent_ran(attacked: Campaign) -> None:
    assert not attacked.marker.exists()


def test_every_model_is_bit_for_bit_that_of_a_run_without_any_of_it(attacked: Campaign, control: Campaign) -> None:
    query = "SELECT round, model_digest FROM v1_rounds WHERE status = 'committed' ORDER BY round"
    models = sql(control.db, query)
    assert len({digest for _, digest in models}) == len(models) == ROUNDS + 1
    assert sql(attacked.db, query) == models


def test_every_round_is_committed_in_time_with_exactly_the_honest_three(attacked: Campaign) -> None:
    rounds = sql(attacked.db, "SELECT round, attempt, status, ended_at < deadline_at FROM v1_rounds WHERE round > 0")
    assert rounds == [(number, 1, "committed", 1) for number in range(1, ROUNDS + 1)]
    accepted = sql(attacked.db, "SELECT answers_round, client_id FROM v1_updates WHERE decision = 'accepted'")
    assert sorted(accepted) == sorted((n, str(who)) for n in range(1, ROUNDS + 1) for who in HONEST)
    missed = "SELECT COUNT(*) FROM v1_client_rounds WHERE participation = 'timed_out'"
    assert sql(attacked.db, missed) == [(0,)]


def test_the_server_stays_up_and_its_log_is_clean(attacked: Campaign, control: Campaign) -> None:
    assert (attacked.exit_code, control.exit_code) == (0, 0)
    for line in attacked.log.split("\n"):
        assert line.isprintable(), ascii(line)
        assert LINE.match(line), line
    assert "Traceback" not in attacked.log
    assert "server error" not in attacked.log


def test_every_connection_ended_with_a_reason_and_all_texts_are_printable(
    attacked: Campaign, record: dict[tuple[str, int], Trace]
) -> None:
    for trace in record.values():
        assert trace.connection["closed_at"] is not None
        assert trace.connection["close_reason"]
        assert not trace.connection["close_reason"].startswith(("server error", "not served"))
        for row in (trace.connection, *trace.messages, *trace.updates):
            texts = [value for value in row if isinstance(value, str)]
            assert all(text.isprintable() and len(text) < 400 for text in texts), texts
    unsent = sql(
        attacked.db, "SELECT header FROM v1_messages WHERE direction = 'out' AND outcome = 'ok' AND bytes <= 8"
    )
    assert unsent == []
    unheard = sql(attacked.db, "SELECT COUNT(*) FROM v1_messages WHERE outcome <> 'ok' AND coalesce(reason, '') = ''")
    assert unheard == [(0,)]


def test_metrics_say_what_sql_says(attacked: Campaign) -> None:
    assert attacked.metrics_differ is None


def test_memory_stays_within_its_budget(attacked: Campaign, control: Campaign) -> None:
    held = sum(hostile.then is Then.HOLD for hostile in INPUTS)
    connections = len(HONEST) + Attack.participants() + held
    budget = RECEIVE_MEMORY * 2**20 + connections * A_CONNECTION + ALLOWANCE
    assert attacked.peak - control.peak < budget


def test_the_record_verifies(attacked: Campaign) -> None:
    done = python(attacked.db.parent, "-m", "flserver", "--db", str(attacked.db), "verify")
    assert done.returncode == 0, done.stdout + done.stderr


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLSERVER_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(TESTS.parent), environment.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
