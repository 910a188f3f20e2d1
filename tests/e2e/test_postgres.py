"""Servers whose record is PostgreSQL's, with real sockets and a real PostgreSQL."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from flserver.settings.places import Address
from flserver.store.reader import Reader
from tests import warm
from tests.e2e.agreement import assert_metrics_say_what_sql_says
from tests.e2e.harness import FAST, TESTS, Peer, ServerProcess
from tests.patience import PATIENCE, eventually
from tests.postgres_server import PostgresDatabase, running_postgres

pytestmark = pytest.mark.postgres

TWO = (*FAST, "--min-clients", "2", "--min-updates", "2")
DONE = "SELECT 1 FROM v1_runs WHERE name = :name AND status = 'completed'"


class PostgresProcess(ServerProcess):
    """``flserver`` with its record in ``record``."""

    def __init__(self, folder: Path, record: PostgresDatabase, *arguments: str, url: str = "", **more: Any) -> None:
        self.record = record
        place = ("--db", url or record.url(), "--checkpoint-dir", str(folder / "models"))
        super().__init__(folder, *place, *arguments, **more)

    def sql(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        return Reader(Address(self.record.url())).query(query)[1]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def flserver(record: PostgresDatabase, folder: Path, *arguments: str) -> str:
    """What a command says that succeeds."""
    path = os.environ | {"PYTHONPATH": str(TESTS.parent)}
    done = warm.run(["-m", "flserver", "--db", record.url(), *arguments], cwd=folder, env=path)
    assert done.returncode == 0, done.stderr
    return done.stdout


def joined(server: ServerProcess, stack: ExitStack, *ids: int) -> list[Peer]:
    return [stack.enter_context(Peer(server, number)).join() for number in ids]


def answer(*peers: Peer) -> None:
    """One round: each client answers with a model of its own."""
    for number, peer in enumerate(peers, 1):
        peer.answer(change=number)


def digests(record: PostgresDatabase, name: str) -> list[str]:
    """Of the models of a run's committed rounds."""
    query = """
        SELECT model_digest FROM v1_rounds JOIN v1_runs USING (run_id)
        WHERE name = :name AND v1_rounds.status = 'committed' ORDER BY round"""
    return [row[0] for row in Reader(Address(record.url())).query(query, {"name": name})[1]]


def test_a_run_to_its_end_and_what_is_asked_of_it(
    empty_postgres: PostgresDatabase, tmp_path: Path, stack: ExitStack
) -> None:
    secret = empty_postgres.server.password
    arguments = ("--num-rounds", "2", "--run-name", "night", "--metrics-linger", str(PATIENCE), *TWO)
    env = {"PGPASSWORD": secret}
    server = PostgresProcess(tmp_path, empty_postgres, *arguments, url=empty_postgres.tcp_url(), env=env)
    with server:
        peers = joined(server, stack, 1, 2)
        assert "is served already" in _refused(tmp_path, empty_postgres, "--resume", "--run-name", "night")
        answer(*peers)
        answer(*peers)
        for peer in peers:
            peer.finished()
        server.wait_for_line("metrics stay")
        assert_metrics_say_what_sql_says(server)
        shown = empty_postgres.ask("SELECT string_agg(a::text, ' ') FROM pg_stat_activity AS a")[0][0]
        assert "flserver run" in shown
        assert secret not in shown + Path(f"/proc/{server.process.pid}/cmdline").read_text(encoding="utf-8")
        assert server.terminate() == 0
    # Neither in what it has said, nor anywhere in the record, nor in what PostgreSQL shows of its sessions.
    assert secret not in server.log
    everything = empty_postgres.ask("SELECT string_agg(e::text, ' ') FROM events AS e")
    assert "RunStarted" in everything[0][0]
    assert secret not in everything[0][0]
    assert len(json.loads(flserver(empty_postgres, tmp_path, "runs", "--json"))) == 1
    assert digests(empty_postgres, "night")[-1] in flserver(empty_postgres, tmp_path, "show", "night")
    assert "2" in flserver(empty_postgres, tmp_path, "query", "SELECT MAX(round) FROM v1_rounds")
    assert "client" in flserver(empty_postgres, tmp_path, "ask", "who_took_part", "--run", "night")
    assert "all" in flserver(empty_postgres, tmp_path, "verify")
    flserver(empty_postgres, tmp_path, "report", "night", "--out", "night.html")
    assert "night" in (tmp_path / "night.html").read_text(encoding="utf-8")


def _refused(folder: Path, record: PostgresDatabase, *arguments: str) -> str:
    with PostgresProcess(folder, record, *arguments) as server:
        assert server.exit_code() == 2, server.log
        return server.log


def test_two_servers_share_a_database_and_one_that_is_killed_goes_on(
    empty_postgres: PostgresDatabase, tmp_path: Path, stack: ExitStack
) -> None:
    def start(name: str, *more: str) -> PostgresProcess:
        (tmp_path / name).mkdir(exist_ok=True)
        arguments = ("--num-rounds", "2", "--run-name", name, *TWO, *more)
        return stack.enter_context(PostgresProcess(tmp_path / name, empty_postgres, *arguments))

    one, two = start("one"), start("two")
    ones, twos = joined(one, stack, 1, 2), joined(two, stack, 1, 2)
    answer(*ones)
    answer(*twos)
    ones[0].answer(change=1.0)
    one.wait_for_sql("SELECT 1 FROM v1_updates WHERE arrived_round = 2")
    one.kill()
    resumed = start("one", "--resume")
    resumed.wait_for_line("state: joining")
    assert resumed.sql("SELECT name, status FROM v1_runs ORDER BY name") == [("one", "running"), ("two", "running")]
    answer(*twos)
    for peer in twos:
        peer.finished()
    assert two.exit_code() == 0, two.log
    again = joined(resumed, stack, 1, 2)
    answer(*again)
    for peer in again:
        peer.finished()
    assert resumed.exit_code() == 0, resumed.log
    # The same updates: the same models, whoever was killed meanwhile.
    assert digests(empty_postgres, "one") == digests(empty_postgres, "two")
    assert len(digests(empty_postgres, "one")) == 3
    held = Reader(Address(empty_postgres.url())).verify_chain()
    assert held.problems == ()
    updates = "SELECT name, decision, COUNT(*) FROM v1_updates JOIN v1_runs USING (run_id) GROUP BY 1, 2 ORDER BY 1, 2"
    assert one.sql(updates) == [("one", "aborted", 1), ("one", "accepted", 4), ("two", "accepted", 4)]


def test_while_the_database_is_away_nothing_becomes_visible(tmp_path: Path, stack: ExitStack) -> None:
    with running_postgres() as postgres:
        record = postgres.create()
        arguments = ("--num-rounds", "2", "--run-name", "night", "--metrics-linger", str(PATIENCE), *TWO)
        server = stack.enter_context(PostgresProcess(tmp_path, record, *arguments))
        peers = joined(server, stack, 1, 2)
        models = [peer.model() for peer in peers]
        postgres.kill()
        bodies = [peer.body(model) for peer, model in zip(peers, models, strict=True)]
        uploads = [stack.enter_context(peer.connect()) for peer in peers]
        for upload, body in zip(uploads, bodies, strict=True):
            upload.sendall(len(body).to_bytes(8, "big") + body)
        server.wait_for_line(r"waiting for up to \d+ s; nothing is answered meanwhile")
        for peer in peers:
            peer.connection.settimeout(0.5)
            with pytest.raises(TimeoutError):
                peer.connection.recv(1)
            peer.connection.settimeout(PATIENCE)
        postgres.start()
        for peer in peers:
            peer.answer()
        for peer in peers:
            peer.finished()
        server.wait_for_line("metrics stay")
        eventually(lambda: server.metrics()['flserver_run_state{state="completed"}'])
        assert_metrics_say_what_sql_says(server)
        assert server.sql("SELECT COUNT(*) FROM v1_updates WHERE decision = 'accepted'") == [(4,)]
        assert server.terminate() == 0
        stack.close()


def test_a_server_that_stands_by_takes_over(empty_postgres: PostgresDatabase, tmp_path: Path, stack: ExitStack) -> None:
    arguments = ("--run-name", "night", *TWO)
    first = stack.enter_context(PostgresProcess(tmp_path, empty_postgres, "--num-rounds", "2", *arguments))
    second = stack.enter_context(PostgresProcess(tmp_path, empty_postgres, "--standby", *arguments))
    peers = joined(first, stack, 1, 2)
    second.wait_for_line("standing by for run ")
    told = second.health()[1]
    assert (told["status"], [(told["run_id"],)]) == ("standing by", first.sql("SELECT run_id FROM v1_runs"))
    assert second.health()[0] == 200
    answer(*peers)
    peers[0].answer(change=1)
    first.wait_for_sql("SELECT 1 FROM v1_updates WHERE arrived_round = 2")
    first.kill()
    peers = joined(second, stack, 1, 2)
    assert second.health()[1]["status"] == "ok"
    answer(*peers)
    for peer in peers:
        peer.finished()
    assert second.exit_code() == 0, second.log
    resumed = "SELECT resumed_from_round, exit_code FROM v1_processes ORDER BY process_id"
    assert second.sql(resumed) == [(None, None), (1, 0)]
    assert second.sql("SELECT decision, COUNT(*) FROM v1_updates GROUP BY 1 ORDER BY 1") == [
        ("aborted", 1),
        ("accepted", 4),
    ]
    why = "SELECT kind, reason FROM v1_operator_events WHERE kind IN ('start', 'resume') ORDER BY at"
    assert second.sql(why) == [("start", None), ("resume", "took over: the server before it was gone")]
    assert Reader(Address(empty_postgres.url())).verify_chain().problems == ()


def test_psycopg_that_is_missing_is_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['psycopg'] = None; from flserver.__main__ import main; main()"
    command = [sys.executable, "-c", code, "--db", "postgresql://db/runs", "runs"]
    env = os.environ | {"PGPASSWORD": "tr0ub4dor"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert "'flserver[postgres]'" in done.stderr
