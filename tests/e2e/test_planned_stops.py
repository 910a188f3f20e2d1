"""A stop in the middle of a run: what runs may end, then everybody is told how the run goes on, and nobody else is."""

import select
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from flserver.process.signals import SAME_SIGNAL
from flserver.wire.messages import UNDERSTANDS_GOODBYE
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer, closed
from tests.e2e.trainers import trainers
from tests.fldata import write_fldata
from tests.patience import PATIENCE, eventually

Join = Callable[..., list[Peer]]
GRACE = ("--stop-grace", str(PATIENCE))
DECISIONS = "SELECT client_id, answers_attempt, decision FROM v1_updates WHERE answers_round = ? ORDER BY update_id"


def test_a_stop_lets_the_running_round_end_and_nobody_is_invited_to_the_next(start: Start, join: Join) -> None:
    server = start("--num-rounds", "5", "--min-clients", "2", *GRACE, *FAST)
    a, b = join(server, "a", "b")
    a.answer()
    model = b.model()
    server.wait_for_sql("SELECT 1 FROM v1_updates")
    server.process.terminate()
    server.wait_for_line(rf"SIGTERM: stopping \(what runs has {PATIENCE:g} s to end; once more: at once\)")
    b.upload(model)
    for peer in (a, b):
        peer.stopped()
    assert server.exit_code() == 3
    assert server.sql("SELECT status, rounds_committed FROM v1_runs") == [("interrupted", 1)]
    assert server.sql("SELECT round, status FROM v1_rounds ORDER BY round") == [(0, "committed"), (1, "committed")]
    assert server.sql(DECISIONS, 1) == [("a", 1, "accepted"), ("b", 1, "accepted")]
    assert server.sql("SELECT client_id, left_reason FROM v1_clients ORDER BY 1") == [
        ("a", "stopped"),
        ("b", "stopped"),
    ]
    assert server.sql("SELECT exit_code FROM v1_processes") == [(3,)]
    acts = server.sql("SELECT kind, detail ->> 'signal', detail ->> 'grace' FROM v1_operator_events ORDER BY at")
    assert acts == [("start", None, None), ("stop", "SIGTERM", PATIENCE)]


@pytest.mark.parametrize("grace", ["0", "0.5"])
def test_when_the_grace_is_over_the_attempt_is_aborted(start: Start, join: Join, grace: str) -> None:
    server = start("--num-rounds", "5", "--min-clients", "2", "--stop-grace", grace, *FAST)
    a, b = join(server, "a", "b")
    a.answer()
    b.model()
    server.wait_for_sql("SELECT 1 FROM v1_updates")
    server.process.terminate()
    for peer in (a, b):
        peer.stopped()
    assert server.exit_code() == 3, "and not when the round's deadline comes, in an hour"
    assert server.sql("SELECT status FROM v1_runs") == [("interrupted",)]
    assert server.sql("SELECT status FROM v1_rounds WHERE round = 1") == [("aborted",)]
    assert server.sql(DECISIONS, 1) == [("a", 1, "aborted")]
    assert server.sql("SELECT reason FROM v1_updates") == [("stopped by SIGTERM",)]
    assert server.sql("SELECT participation FROM v1_client_rounds ORDER BY client_id") == [
        ("answered",),
        ("cut_short",),
    ]


def test_a_stop_in_the_last_round_completes_the_run(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--min-clients", "2", *GRACE, *FAST)
    a, b = join(server, "a", "b")
    a.answer()
    model = b.model()
    server.process.send_signal(signal.SIGINT)
    server.wait_for_line("SIGINT: stopping")
    b.upload(model)
    for peer in (a, b):
        peer.finished()
    assert server.exit_code() == 0
    assert server.sql("SELECT status FROM v1_runs") == [("completed",)]


def test_who_comes_back_while_the_last_round_ends_is_told_too(start: Start, join: Join) -> None:
    server = start("--num-rounds", "5", "--min-clients", "3", "--min-updates", "2", *GRACE, *FAST)
    a, b, c = join(server, "a", "b", "c")
    models = [peer.model() for peer in (a, b, c)]
    c.connection.close()
    server.wait_for_sql("SELECT 1 FROM v1_clients WHERE left_at NOT NULL")
    server.process.terminate()
    server.wait_for_line("SIGTERM: stopping")
    (again,) = join(server, "c")
    for peer, model in zip((a, b), models, strict=False):
        peer.upload(model)
    for peer in (a, b, again):
        peer.stopped()
    assert server.exit_code() == 3


@pytest.mark.parametrize("goodbye", ["finished", "close"])
def test_how_unchanged_trainers_leave_is_the_operators_choice_and_flclient_is_always_told(
    start: Start, join: Join, goodbye: str
) -> None:
    server = start("--num-rounds", "5", "--min-clients", "4", "--stop-grace", "0", "--goodbye", goodbye, *FAST)
    with Peer(server, "ours") as ours:
        assert ours.register(info={UNDERSTANDS_GOODBYE: True})["header"] == "<SUCCESS>"
        (waiting,) = join(server, "waiting")
        with Peer(server, "says so") as says:
            says.register(info={UNDERSTANDS_GOODBYE: "yes"})
            server.process.terminate()
            ours.stopped()
            for unchanged in (waiting, says):
                if goodbye == "finished":
                    unchanged.stopped()
                else:
                    assert closed(unchanged.connection)
    assert server.exit_code() == 3
    assert server.sql("SELECT DISTINCT left_reason FROM v1_clients") == [("stopped",)]
    told = server.sql("SELECT client_id FROM v1_messages WHERE header = '<FINISHED>' ORDER BY 1")
    assert told == ([("ours",)] if goodbye == "close" else [("ours",), ("says so",), ("waiting",)])


def test_at_the_runs_end_everybody_is_told_that_it_is_finished(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--goodbye", "close", *FAST)
    (a,) = join(server, "a")
    a.answer()
    a.finished()
    assert server.exit_code() == 0


def test_the_run_is_named_to_whoever_registers(start: Start, join: Join) -> None:
    server = start("--num-rounds", "5", "--min-clients", "2", *FAST)
    with Peer(server, "a") as a:
        answer = a.register()
        assert (answer["header"], answer["msg"]) == ("<SUCCESS>", "Registered as client a")
        assert [(answer["run"],)] == server.sql("SELECT run_id FROM v1_runs")
        server.process.terminate()
        a.stopped()
    assert server.exit_code() == 3
    resumed = start("--resume")
    with Peer(resumed, "a") as a:
        assert a.register()["run"] == answer["run"]


def test_unchanged_trainers_that_train_while_the_server_stops_find_that_it_is_finished(
    start: Start, tmp_path: Path
) -> None:
    data = write_fldata(tmp_path / "FLdata", (1, 2, 3), samples=50)
    server = start("--num-rounds", "50", "--min-clients", "3", *GRACE, *FAST)
    server.wait_for_line("state: joining")
    with trainers(server, data, 1), trainers(server, data, 2, 3, upload_delay=1):
        server.wait_for_sql("SELECT 1 FROM v1_updates WHERE client_id = '1'")
        server.process.terminate()
    assert server.exit_code() == 3
    assert server.sql("SELECT DISTINCT status FROM v1_rounds") == [("committed",)]
    assert server.sql("SELECT status FROM v1_runs") == [("interrupted",)]


def test_a_second_signal_ends_it_at_once_and_the_next_server_cleans_up(start: Start, join: Join) -> None:
    server = start("--num-rounds", "5", "--min-clients", "2", *GRACE, *FAST)
    a, b = join(server, "a", "b")
    a.answer()
    b.model()
    server.wait_for_sql("SELECT 1 FROM v1_updates")
    server.process.terminate()
    server.wait_for_line("SIGTERM: stopping")
    assert select.select([a.connection, b.connection], [], [], SAME_SIGNAL)[0] == [], "nobody is told anything yet"

    def ended() -> bool:
        server.process.terminate()
        return server.process.poll() is not None

    eventually(ended)
    assert server.exit_code() == 3
    for peer in (a, b):
        assert closed(peer.connection)
    assert server.sql("SELECT status FROM v1_runs") == [("running",)], "as after a crash"
    second = start("--resume", "--time-to-wait", "0.3")
    c, d = join(second, "a", "b")
    for _ in range(5):
        c.answer()
        d.answer()
    c.finished()
    d.finished()
    assert second.exit_code() == 0
    assert second.sql("SELECT status, attempt FROM v1_rounds WHERE round = 1") == [("aborted", 1), ("committed", 2)]
    assert second.sql(DECISIONS, 1)[0] == ("a", 1, "aborted")
    assert second.sql("SELECT reason FROM v1_updates WHERE decision = 'aborted'") == [("server stopped",)]
