"""Promises 2 and 3: durable first, visible after; and what a crash leaves is where the next server goes on.

The writer is held up by a transaction of the test's own on the same database: whatever needs a commit then waits.
"""

import contextlib
import hashlib
import json
import re
import select
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer, ServerProcess, closed, connect, send

Join = Callable[..., list[Peer]]
QUIET = 1.0  # seconds in which nothing must come; the writer itself waits 5 s for the lock


@contextlib.contextmanager
def no_commits(db: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def silent(*peers: Peer) -> bool:
    ready, _, _ = select.select([peer.connection for peer in peers], [], [], QUIET)
    return not ready


def checkpoint(server: ServerProcess, round: int) -> Path:
    (path,) = server.sql("SELECT checkpoint FROM v1_rounds WHERE round = ? AND status = 'committed'", round)[0]
    return server.db.with_name("runs.sqlite.checkpoints") / path


def test_a_registration_is_on_record_before_it_is_answered(start: Start) -> None:
    server = start("--num-rounds", "1", *FAST)
    server.wait_for_line("round 0/1 committed")
    with Peer(server, "a") as a:
        with no_commits(server.db):
            send(a.connection, b'{"header": "<METADATA>", "id": "a", "data_size": 7}')
            assert silent(a)
        assert a.connection.recv(1 << 16)
        rows = server.sql("SELECT header, outcome FROM v1_messages WHERE client_id = 'a' AND direction = 'in'")
        assert rows == [("<METADATA>", "ok")]
        assert server.sql("SELECT data_size FROM v1_clients") == [(7,)]


def test_a_refusal_is_on_record_before_it_is_answered(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", *FAST)
    join(server, "a")
    with Peer(server, "a") as twin:
        with no_commits(server.db):
            send(twin.connection, b'{"header": "<METADATA>", "id": "a", "data_size": 7}')
            assert silent(twin)
        assert b"<ERROR>" in twin.connection.recv(1 << 16)
        rows = server.sql("SELECT outcome FROM v1_messages WHERE direction = 'in' ORDER BY message_id")
        assert rows == [("ok",), ("refused",)]


def test_a_round_is_committed_before_its_model_is_sent(start: Start, join: Join) -> None:
    server = start("--num-rounds", "2", "--min-clients", "2", *FAST)
    a, b = join(server, "a", "b")
    a.answer(0.5)
    model = b.model()
    server.wait_for_sql("SELECT 1 FROM v1_updates WHERE client_id = 'a'")
    with no_commits(server.db):
        with connect(server.port) as upload:
            send(upload, b.body(model))
            assert upload.recv(1) == b""
        assert silent(a, b)
        # The checkpoint comes first: it is there although its round is not.
        files = {path.name for path in server.db.with_name("runs.sqlite.checkpoints").glob("*/round-000001-*")}
        assert len(files) == 1
        assert server.sql("SELECT status FROM v1_rounds WHERE round = 1") == [("running",)]
    for peer in (a, b):
        peer.model()
    assert server.sql("SELECT status FROM v1_rounds WHERE round = 1") == [("committed",)]
    assert checkpoint(server, 1).name in files


@pytest.mark.parametrize("goodbye", ["finished", "close"])
def test_a_stop_is_on_record_before_anybody_is_told_or_cut_off(start: Start, join: Join, goodbye: str) -> None:
    server = start("--num-rounds", "2", "--min-clients", "2", "--goodbye", goodbye, *FAST)
    (a,) = join(server, "a")
    server.wait_for_sql("SELECT 1 FROM v1_events WHERE type = 'MessageSent'")
    with no_commits(server.db):
        server.process.terminate()
        server.wait_for_line("SIGTERM: stopping")
        assert silent(a), "neither a word nor the end"
    if goodbye == "finished":
        a.stopped()
    else:
        assert closed(a.connection)
    assert server.exit_code() == 3
    order = "SELECT type FROM v1_events WHERE type IN ('RunEnded', 'MessageSent', 'ClientLeft') ORDER BY seq"
    told = [("MessageSent",)] if goodbye == "finished" else []
    assert server.sql(order) == [("MessageSent",), ("RunEnded",), *told, ("ClientLeft",)]


def test_kill_minus_nine_in_the_middle_of_a_round_and_resume(start: Start, join: Join) -> None:
    server = start("--num-rounds", "10", "--min-clients", "3", *FAST)
    old = join(server, 1, 2, 3)
    for round in range(1, 5):
        for i, peer in enumerate(old):
            peer.answer(0.01 * (i + round))
    old[0].answer(0.5)
    server.wait_for_sql("SELECT 1 FROM v1_updates WHERE answers_round = 5")
    server.kill()
    for peer in old:
        peer.connection.close()

    resumed = start("--resume", "--time-to-wait", "0.3")
    new = join(resumed, 1, 2, 3)
    first = new[0].model()
    fourth = load_file(checkpoint(resumed, 4))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, fourth[name])
    new[0].upload(first)
    for peer in new[1:]:
        peer.answer()
    for _ in range(6, 11):
        for peer in new:
            peer.answer()
    for peer in new:
        peer.finished()
    assert resumed.exit_code() == 0

    assert resumed.sql("SELECT status, rounds_committed, num_rounds FROM v1_runs") == [("completed", 10, 10)]
    committed = resumed.sql("SELECT round FROM v1_rounds WHERE status = 'committed' ORDER BY round")
    assert committed == [(round,) for round in range(11)]
    fifth = resumed.sql("SELECT attempt, status FROM v1_rounds WHERE round = 5 ORDER BY attempt")
    assert fifth == [(1, "aborted"), (2, "committed")]
    chain = resumed.sql("SELECT base_digest, model_digest FROM v1_rounds WHERE status = 'committed' ORDER BY round")
    assert [base for base, _ in chain[1:]] == [model for _, model in chain[:-1]]
    for round in range(11):
        digest = "sha256:" + hashlib.sha256(checkpoint(resumed, round).read_bytes()).hexdigest()
        assert (digest,) == chain[round][1:]
    assert resumed.sql("SELECT resumed_from_round FROM v1_processes ORDER BY process_id") == [(None,), (4,)]
    assert resumed.sql("SELECT COUNT(*) FROM v1_updates WHERE decision IS NULL") == [(0,)]
    assert resumed.sql("SELECT COUNT(*) FROM v1_connections WHERE closed_at IS NULL") == [(0,)]


def committed_to(start: Start, join: Join, rounds: int) -> ServerProcess:
    """A run that was killed with so many rounds committed."""
    server = start("--num-rounds", "9", "--min-clients", "1", *FAST)
    (a,) = join(server, "a")
    for _ in range(rounds):
        a.answer(0.1)
    a.model()
    server.kill()
    return server


def test_a_checkpoint_that_a_crash_left_before_its_commit_is_removed(start: Start, join: Join) -> None:
    server = committed_to(start, join, 2)
    left_over = checkpoint(server, 2).with_name("round-000003-0123456789abcdef.safetensors")
    left_over.write_bytes(b"half a round")
    partial = left_over.with_name(".round-000003.partial")
    partial.write_bytes(b"half a file")
    resumed = start("--resume", "--num-rounds", "3", "--time-to-wait", "0.3")
    (a,) = join(resumed, "a")
    a.answer()
    a.finished()
    assert resumed.exit_code() == 0
    assert not left_over.exists()
    assert not partial.exists()
    assert checkpoint(resumed, 3).exists()
    ((overrides,),) = resumed.sql("SELECT overrides FROM v1_processes ORDER BY process_id DESC LIMIT 1")
    assert json.loads(overrides)["num_rounds"] == 3
    kinds = resumed.sql("SELECT kind FROM v1_operator_events WHERE detail LIKE '%num_rounds%' OR kind = 'resume'")
    assert sorted(kinds) == [("override",), ("resume",)]


@pytest.mark.parametrize("damage", ["changed", "missing", "ahead"])
def test_files_that_do_not_fit_the_record_are_refused_loudly(start: Start, join: Join, damage: str) -> None:
    server = committed_to(start, join, 2)
    file = checkpoint(server, 2)
    if damage == "changed":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        expected = "does not match its digest"
    elif damage == "missing":
        file.unlink()
        expected = "No such file"
    else:
        file.with_name("round-000004-0123456789abcdef.safetensors").write_bytes(b"from a lost commit")
        expected = "the database lacks commits"
    resumed = start("--resume")
    assert resumed.exit_code() == 1
    assert len([line for line in resumed.lines if expected in line]) == 1
    assert "Traceback" not in resumed.log


def test_a_run_whose_checkpoints_were_moved_goes_on_where_it_is_told_they_are(start: Start, join: Join) -> None:
    server = committed_to(start, join, 1)
    checkpoint(server, 1).parents[1].rename(server.db.with_name("moved"))
    lost = start("--resume")
    assert lost.exit_code() == 1
    lost.wait_for_line("No such file or directory; if its folder was moved, --checkpoint-dir says where to; ")
    found = start("--resume", "--checkpoint-dir", str(server.db.with_name("moved")))
    found.wait_for_line("state: joining")


def test_what_may_not_change_on_resume_is_refused(start: Start, join: Join) -> None:
    committed_to(start, join, 1)
    for flag, value in (("--seed", "7"), ("--model", "torchvision:resnet18"), ("--initial-weights", "x.safetensors")):
        resumed = start("--resume", flag, value)
        assert resumed.exit_code() == 2
        assert f"{flag} {value}: run" in resumed.lines[-1]


def test_a_complete_run_is_extended_or_left(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--run-name", "ward", *FAST)
    (a,) = join(server, "a")
    a.answer(0.5)
    a.finished()
    assert server.exit_code() == 0
    again = start("--resume", "--run-name", "ward")
    assert again.exit_code() == 0
    again.wait_for_line("run ward is complete with its 1 rounds")
    extended = start("--resume", "--num-rounds", "2")
    (a,) = join(extended, "a")
    a.answer()
    a.finished()
    assert extended.exit_code() == 0
    assert extended.sql("SELECT name, status, rounds_committed, num_rounds FROM v1_runs") == [
        ("ward", "completed", 2, 2)
    ]


def test_a_crash_before_round_zero_makes_it_in_the_same_run(start: Start, join: Join, tmp_path: Path) -> None:
    (tmp_path / "power.py").write_text(
        "import os, signal\ndef cut(model, round): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    server = start("--num-rounds", "1", "--evaluate", "power:cut", *FAST)
    assert server.exit_code() == -9
    assert server.sql("SELECT status FROM v1_runs") == [("running",)]
    (tmp_path / "power.py").write_text("def cut(model, round): return {}\n")
    resumed = start("--resume")
    (a,) = join(resumed, "a")
    a.answer()
    a.finished()
    assert resumed.exit_code() == 0
    rows = resumed.sql("SELECT round, status FROM v1_rounds WHERE status = 'committed' ORDER BY round")
    assert rows == [(0, "committed"), (1, "committed")]
    assert resumed.sql("SELECT COUNT(*) FROM v1_runs") == [(1,)]


def test_a_second_server_on_one_database_is_kept_out(start: Start) -> None:
    server = start(*FAST)
    server.wait_for_line("state: joining")
    second = start(*FAST)
    assert second.exit_code() == 2
    pid, since = server.process.pid, r"20\d\d-\d\d-\d\dT[\d:.]+Z$"
    assert re.search(rf"another flserver has .*runs.sqlite open: process {pid}, since {since}", second.lines[-1])


def test_pruning_keeps_the_newest_and_the_rows(start: Start, join: Join) -> None:
    server = start("--num-rounds", "4", "--keep-checkpoints", "2", *FAST)
    (a,) = join(server, "a")
    for _ in range(4):
        a.answer(0.1)
    a.finished()
    assert server.exit_code() == 0
    rows = server.sql("SELECT round, checkpoint_deleted_at IS NOT NULL, checkpoint FROM v1_rounds ORDER BY round")
    assert [row[:2] for row in rows] == [(0, 1), (1, 1), (2, 1), (3, 0), (4, 0)]
    folder = server.db.with_name("runs.sqlite.checkpoints")
    assert [(folder / row[2]).exists() for row in rows] == [False, False, False, True, True]
    # Nobody comes back to a complete run to prune it.
    last = server.sql("SELECT type FROM v1_events WHERE type IN ('CheckpointDeleted', 'RunEnded') ORDER BY seq")
    assert last == [("CheckpointDeleted",)] * 3 + [("RunEnded",)]
    (folder / rows[0][2]).write_bytes(b"as if the power had failed at the end")
    ((name,),) = server.sql("SELECT name FROM v1_runs")
    again = start("--resume", "--run-name", name)
    assert again.exit_code() == 0
    again.wait_for_line("is complete with its 4 rounds")
    assert not (folder / rows[0][2]).exists()
    (folder / rows[1][2]).write_bytes(b"as if a crash had come between the record of it and the deletion")
    resumed = start("--resume", "--num-rounds", "5", *FAST)
    resumed.wait_for_line("state: joining")
    assert not (folder / rows[1][2]).exists()
    assert resumed.terminate() == 3


def test_pruning_keeps_the_best_too(start: Start, join: Join, tmp_path: Path) -> None:
    scores = "{0: 0.1, 1: 0.9, 2: 0.5, 3: 0.6, 4: 0.2}"
    (tmp_path / "score.py").write_text(f"def score(model, round): return {{'accuracy': {scores}[round]}}\n")
    server = start("--num-rounds", "4", "--keep-checkpoints", "1", "--evaluate", "score:score", *FAST)
    (a,) = join(server, "a")
    for _ in range(4):
        a.answer(0.1)
    a.finished()
    assert server.exit_code() == 0
    kept = server.sql("SELECT round FROM v1_rounds WHERE checkpoint_deleted_at IS NULL ORDER BY round")
    assert kept == [(1,), (4,)]
    files = sorted(path.name[:12] for path in server.db.with_name("runs.sqlite.checkpoints").glob("*/*.safetensors"))
    assert files == ["round-000001", "round-000004"]


def test_a_run_whose_rounds_are_all_there_ends_without_waiting_for_anyone(start: Start, join: Join) -> None:
    committed_to(start, join, 2)
    resumed = start("--resume", "--num-rounds", "2")
    assert resumed.exit_code() == 0
    assert resumed.sql("SELECT status, rounds_committed, num_rounds FROM v1_runs") == [("completed", 2, 2)]


def test_a_stop_while_it_starts_leaves_nothing(start: Start) -> None:
    server = start("--num-rounds", "1")
    server.wait_for_line("listening for trainers")  # torch comes after it
    assert server.terminate() == 3
    assert server.lines[-1].endswith("SIGTERM: stopped before anything began")
    assert list(server.db.parent.iterdir()) == []
