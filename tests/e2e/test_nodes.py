"""A server whose trainers several processes serve: the same rounds, the same record, also where one is killed."""

import os
import re
import signal
import socket
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.e2e.agreement import assert_metrics_say_what_sql_says, disagreements
from tests.e2e.command import flserver
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer, ServerProcess, closed, field_module
from tests.e2e.trained import digests
from tests.patience import PATIENCE, eventually

CLIENTS = range(4)
ROUNDS, KILLED_IN = 4, 3
OPTIONS = ("--num-rounds", str(ROUNDS), "--min-clients", str(len(CLIENTS)), "--min-updates", "1", "--seed", "5", *FAST)
DIGESTS = "SELECT round, model_digest FROM v1_rounds WHERE status = 'committed' AND round < ? ORDER BY round"
UNNAMED = "UPDATE events SET payload = json_set(payload, '$.nodes', json('[]')) WHERE type = 'RoundCommitted'"
NAMES_NONE = re.compile(r"round (\d), attempt \d: of node-\d it names no events in which it gave the updates [\d, ]+,")
NODES = "SELECT DISTINCT node FROM v1_updates JOIN v1_connections USING (connection_id) WHERE"


def trained(server: ServerProcess, client: int, ready: Callable[[int, int], object]) -> None:
    """Take part to the run's end, which may come without it, and register again where the connection ends before.
    ``ready`` is called with the client and the number of its answer before each."""
    answers, pause = 0, threading.Event()
    while not any(" completed, model " in line for line in server.lines):
        try:
            with Peer(server, client, 100 + client) as peer:
                if peer.register()["header"] == "<SUCCESS>":
                    while (message := peer.message())["header"] == "<MODEL>":
                        for parameter in message["model"].parameters():
                            parameter.data.add_(0.01 * (client + 1))
                        answers += 1
                        ready(client, answers)
                        peer.upload(message["model"])
                    return
        except (EOFError, OSError):
            pass  # its node is gone: it comes to another one
        pause.wait(0.05)


def run(server: ServerProcess, ready: Callable[[int, int], object] = lambda client, answer: None) -> None:
    """Let all clients train to the end."""
    with field_module():
        threads = [threading.Thread(target=trained, args=(server, client, ready)) for client in CLIENTS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def test_the_models_are_the_same_bits_on_as_many_nodes(tmp_path: Path) -> None:
    alone = digests(tmp_path / "alone")
    for nodes in ("1", "2", "4"):
        assert digests(tmp_path / nodes, "--ingest", nodes) == alone


def test_several_processes_make_the_same_models_and_one_that_is_killed_costs_what_it_had(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "alone").mkdir()
    with ServerProcess(tmp_path / "alone", *OPTIONS) as alone:
        run(alone)
        assert alone.exit_code() == 0
    roster = tmp_path / "clients.csv"
    roster.write_text("id\n0\n1\n2\n3\n4\n")
    server = start(*OPTIONS, "--ingest", "2", "--metrics-linger", "3600", "--clients", str(roster))
    for node in ("node-1", "node-2"):
        server.wait_for_line(f"{node} serves trainers")
    eventually(lambda: server.health()[1]["nodes"] == {"serving": 2, "of": 2})
    roster.write_text("id\n0\n1\n2\n3\n")
    server.process.send_signal(signal.SIGHUP)
    for node in ("node-1", "node-2"):
        server.wait_for_line(f"{node}: SIGHUP: read again here: certificate None, 4 clients on the roster")
    killed = threading.Event()

    def kill_one(client: int, answer: int) -> None:
        """In one round the last two clients answer when a node with an answer of the others is gone."""
        if answer == KILLED_IN and client == CLIENTS[2]:
            here = f"{NODES} decision IS NULL AND answers_round = {KILLED_IN}"
            (node,) = eventually(lambda: server.sql(here))[0]
            process = re.search(rf"{node} serves trainers, process (\d+)", server.log)
            assert process is not None
            os.kill(int(process[1]), signal.SIGKILL)
            server.wait_for_sql("SELECT 1 FROM v1_updates WHERE decision = 'lost'")
            server.wait_for_line("node-3 serves trainers")  # where the run ends before, none comes any more
            killed.set()
        elif answer == KILLED_IN and client == CLIENTS[3]:
            assert killed.wait(PATIENCE)

    run(server, kill_one)
    server.wait_for_line("run .* completed")
    for open_yet in ("v1_clients WHERE left_reason IS NULL", "v1_connections WHERE closed_at IS NULL"):
        eventually(lambda query=f"SELECT COUNT(*) FROM {open_yet}": server.sql(query) == [(0,)])
    eventually(lambda: disagreements(server) == [])  # what was committed last is counted a moment later
    assert_metrics_say_what_sql_says(server)
    assert server.sql(DIGESTS, KILLED_IN) == alone.sql(DIGESTS, KILLED_IN), "with nodes and without"
    assert [number for number, _ in server.sql(DIGESTS, ROUNDS + 1)] == list(range(ROUNDS + 1))
    ((lost,),) = server.sql(f"{NODES} decision = 'lost'")
    accepted = server.sql(f"{NODES} decision = 'accepted' AND answers_round = {KILLED_IN}")
    assert (lost,) not in accepted, "what that node had is in no model"
    decisions = Counter(decision for (decision,) in server.sql("SELECT decision FROM v1_updates"))
    assert None not in decisions
    left = {reason for (reason,) in server.sql("SELECT left_reason FROM v1_clients")}
    assert left <= {"finished", "node", "closed", "reset"}
    assert server.sql("SELECT COUNT(*) FROM v1_connections WHERE node IS NULL OR closed_at IS NULL") == [(0,)]
    killed_by, gone = "its process was killed by SIGKILL", "SELECT node, updates_lost > 0, end_reason FROM v1_nodes"
    assert server.sql(f"{gone} WHERE lost = 1") == [(lost, 1, killed_by)]
    server.wait_for_line(f"{lost} is gone: {killed_by}")
    assert server.terminate() == 0
    code, said = flserver("--db", server.db, "verify")
    assert code == 0, said
    assert "the events of nodes are those that rounds name" in said
    with closing(sqlite3.connect(server.db)) as connection, connection:
        connection.execute(UNNAMED)
    code, said = flserver("--db", server.db, "verify")
    assert (code, set(NAMES_NONE.findall(said))) == (1, set("1234")), said


def test_nodes_end_with_their_server_however_it_ends_and_a_run_goes_on_with_others(start: Start) -> None:
    options = ("--ingest", "1", "--stop-grace", "0", "--keep-updates", *FAST)
    killed = start("--num-rounds", "3", *options)
    process = int(killed.wait_for_line(r"node-1 serves trainers, process (\d+)")[1])
    with Peer(killed, "a").join() as peer:
        peer.answer(0.5)
        peer.model()  # of round 2: round 1 is committed
        killed.kill()
        assert closed(peer.connection)
    before = process
    eventually(lambda: not Path(f"/proc/{process}").exists() or "Z" in state_of(process))
    resumed = start("--resume", *options, "--server-port", str(killed.port))
    process = int(resumed.wait_for_line(r"node-2 serves trainers, process (\d+)")[1])
    with Peer(resumed, "a").join() as peer:
        peer.model()
        assert resumed.terminate() == 3
        peer.stopped()
    assert not Path(f"/proc/{process}").exists(), "the server has waited for it"
    stopped = start("--resume", *options)
    begun = int(stopped.wait_for_line(r"node-3 serves trainers, process (\d+)")[1])
    os.kill(begun, signal.SIGINT)  # as a terminal tells all: it is being started, and the server ends it
    assert stopped.terminate() == 3
    assert not Path(f"/proc/{begun}").exists()
    assert stopped.sql("SELECT COUNT(*) FROM v1_events WHERE type = 'NodeLost'") == [(0,)]
    assert resumed.sql("SELECT round, status FROM v1_rounds ORDER BY round, attempt") == [
        (0, "committed"),
        (1, "committed"),
        (2, "aborted"),
        (2, "aborted"),
    ]
    assert resumed.sql("SELECT left_reason FROM v1_clients ORDER BY registration") == [
        ("server stopped",),
        ("stopped",),
    ]
    ended = "SELECT node, slot, process_id, lost, end_reason, pid, host FROM v1_nodes ORDER BY node"
    assert resumed.sql(ended) == [
        ("node-1", 1, 1, None, "server stopped", before, socket.gethostname()),
        ("node-2", 1, 2, 0, "finished", process, socket.gethostname()),
        ("node-3", 1, 3, 0, "finished", begun, socket.gethostname()),
    ]
    code, said = flserver("--db", resumed.db, "verify")
    assert code == 0, said


def state_of(process: int) -> str:
    """What the system says of a process: Z where it has ended and nobody has asked."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"
