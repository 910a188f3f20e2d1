"""Promises 6 and 7: what was accepted is what was averaged, /metrics says what SQL says, and everything has a row."""

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import blake3
import torch
from safetensors.torch import load_file

from flserver.heads.keys import PrivateKey
from tests.e2e.agreement import assert_metrics_say_what_sql_says
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer, closed, connect, send
from tests.e2e.hostile.corpus import INPUTS
from tests.patience import PATIENCE

Join = Callable[..., list[Peer]]


def test_metrics_equal_sql_before_and_after_a_resume(start: Start, join: Join) -> None:
    server = start("--num-rounds", "4", "--min-clients", "3", *FAST)
    a, b, c = join(server, "a", "b", "c")
    with connect(server.port) as scan:
        scan.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert closed(scan)
    model = a.answer(0.5)
    a.upload(model)
    bad = b.model()
    with torch.no_grad():
        next(bad.parameters())[0, 0] = float("nan")
    b.upload(bad)
    c.answer(0.25)
    for hostile in INPUTS[::20]:
        with connect(server.port) as stranger, contextlib.suppress(OSError):  # refused before all is sent
            stranger.sendall(hostile.wire)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(1 << 16):
                pass
    a.answer(0.125)
    c.model()
    c.connection.close()
    b.model()
    server.wait_for_sql("SELECT 1 FROM v1_clients WHERE client_id = 'c' AND left_at NOT NULL")
    server.wait_for_sql("SELECT 1 FROM v1_updates WHERE arrived_round = 2")
    assert_metrics_say_what_sql_says(server)
    server.kill()
    resumed = start("--resume", "--time-to-wait", "0.5", "--min-clients", "2")
    resumed.wait_for_line("state: joining")
    assert_metrics_say_what_sql_says(resumed)
    assert resumed.metrics()['flserver_updates_total{decision="aborted"}'] == 1
    refused = resumed.sql("SELECT COUNT(*) FROM v1_messages WHERE outcome = 'refused'")[0][0]
    assert refused > len(INPUTS[::20]) / 2, "what is hostile was refused, and counts"
    (a, b) = join(resumed, "a", "b")
    a.answer()
    b.answer()
    a.answer()
    b.model()
    resumed.kill()
    for peer in (a, b):
        peer.connection.close()
    again = start("--resume", "--time-to-wait", "0.5", "--min-clients", "2")
    again.wait_for_line("state: joining")
    assert_metrics_say_what_sql_says(again)
    (a, b) = join(again, "a", "b")
    for _ in range(2):
        a.answer()
        b.answer()
    for peer in (a, b):
        peer.finished()
    assert again.exit_code() == 0


def test_metrics_linger_after_the_run_and_health_is_good_until_the_end(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--metrics-linger", str(PATIENCE), *FAST)
    (a,) = join(server, "a")
    status, health = server.health()
    assert (status, health["status"]) == (200, "ok")
    assert health["audit"]["digest"].startswith("sha256:")
    a.answer()
    a.finished()
    server.wait_for_line(f"metrics stay for {PATIENCE:g} s")
    assert_metrics_say_what_sql_says(server)
    metrics = server.metrics()
    assert metrics['flserver_run_state{state="completed"}'] == 1
    assert metrics['flserver_rounds_total{status="committed"}'] == 2
    assert server.health()[0] == 200
    server.process.terminate()
    assert server.exit_code() == 0


def test_one_query_names_exactly_the_updates_a_model_was_made_of(start: Start, join: Join) -> None:
    server = start("--num-rounds", "2", "--min-clients", "3", *FAST)
    peers = join(server, 1, 2, 10)
    peers[0].data_size = 100
    uploaded: dict[str, torch.nn.Module] = {}
    for round in (1, 2):
        for i, peer in enumerate(peers):
            model = peer.answer(0.1 * (i + round))
            if round == 2:
                uploaded[str(peer.client_id)] = model
    for peer in peers:
        peer.finished()
    assert server.exit_code() == 0
    digest, path = server.sql("SELECT model_digest, checkpoint FROM v1_rounds WHERE round = 2")[0]
    rows = server.sql(
        "SELECT u.client_id, u.update_digest, u.data_size, u.weight FROM v1_rounds r JOIN v1_updates u"
        " ON u.run_id = r.run_id AND u.answers_round = r.round AND u.answers_attempt = r.attempt"
        " WHERE r.model_digest = ? AND u.decision = 'accepted' ORDER BY u.client_id",
        digest,
    )
    assert [row[0] for row in rows] == ["1", "10", "2"]
    total = torch.zeros(10, 784, dtype=torch.float64)
    for client_id, update_digest, data_size, weight in rows:
        state = uploaded[client_id].state_dict()
        assert update_digest == digest_by_the_documentation(state)
        assert weight == data_size / 300
        total += state["fc1.weight"].double() * data_size
    file = server.db.with_name("runs.sqlite.checkpoints") / path
    assert digest == "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
    assert torch.equal(load_file(file)["fc1.weight"], (total / 300).float())


def digest_by_the_documentation(state: dict[str, torch.Tensor]) -> str:
    """BLAKE3 over each tensor, in ascending order of names: a length-prefixed head, then the values."""
    hasher = blake3.blake3()
    for name in sorted(state):
        tensor = state[name]
        head = f"{name}\0{str(tensor.dtype)[6:]}\0{'x'.join(map(str, tensor.shape))}\0".encode()
        hasher.update(len(head).to_bytes(8, "little") + head + tensor.numpy().tobytes())
    return "blake3:" + hasher.hexdigest()


def test_whatever_came_has_a_row(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--min-clients", "2", *FAST)
    garbage = {
        b"GET / HTTP/1.1\r\n\r\n": "refused",
        b"\0\0\0\0\0\0\0\5hello": "refused",
        b"\0\0\0\0\0\0\0\4\x80\x04N.": "refused",
        b"\0\0\0\0\0\0\0\2{}": "refused",
        b"\0\0\0\0\0\0\1\0{": "failed",
    }
    for data in garbage:
        with connect(server.port) as peer:
            peer.sendall(data)
            peer.shutdown(1)
            answer = b"".join(iter(lambda peer=peer: peer.recv(4096), b""))  # type: ignore[misc]
            assert (b"<ERROR>" in answer) == data.endswith(b"{}"), "who sent JSON is told what is wrong with it"
    with connect(server.port):
        pass
    a, b = join(server, "a", "b")
    for peer in (a, b):
        peer.answer()
    for peer in (a, b):
        peer.finished()
    assert server.exit_code() == 0
    rows = server.sql(
        "SELECT outcome, reason FROM v1_messages JOIN v1_connections USING (connection_id)"
        " WHERE purpose = 'unknown' AND direction = 'in' ORDER BY message_id"
    )
    assert [outcome for outcome, _ in rows] == list(garbage.values())
    assert all(reason for _, reason in rows)
    assert server.sql("SELECT COUNT(*) FROM v1_connections WHERE purpose = 'unknown'") == [(6,)]
    size, body_digest = server.sql("SELECT bytes, digest FROM v1_messages WHERE bytes = 10")[0]
    assert (size, body_digest) == (10, "blake3:" + blake3.blake3(b"{}").hexdigest())
    assert json.loads(server.sql("SELECT config FROM v1_runs")[0][0])["num_rounds"] == 1


def test_the_fifteen_views_answer_and_the_chain_holds(start: Start, join: Join, tmp_path: Path) -> None:
    PrivateKey.generate("log.example/a").write(tmp_path / "key")
    options = ("--run-name", "views", "--eval-data", "digits", "--strangers-per-minute", "0")
    options += ("--sign-key", str(tmp_path / "key"), "--ingest", "1")
    server = start("--num-rounds", "2", "--min-clients", "2", *options, *FAST)
    with connect(server.port) as scan:
        scan.shutdown(1)
        assert closed(scan)
    a, b = join(server, "a", "b")
    metrics = {"loss": {"received": 2.5, "trained": 1.0}, "accuracy": {"received": 0.5}}
    for _ in range(2):
        for peer in (a, b):
            peer.upload(peer.model(), metrics=metrics)
    for peer in (a, b):
        peer.finished()
    assert server.exit_code() == 0
    views = [name for (name,) in server.sql("SELECT name FROM sqlite_master WHERE type = 'view' AND name LIKE 'v1_%'")]
    assert len(views) == 15
    for view in views:
        assert server.sql(f"SELECT COUNT(*) FROM {view}")[0][0] > 0, view
    means = server.sql("SELECT round, name, value FROM v1_round_metrics WHERE source = 'clients' ORDER BY round, name")
    assert means == [(0, "accuracy", 0.5), (0, "loss", 2.5), (1, "accuracy", 0.5), (1, "loss", 2.5)]
    own = server.sql("SELECT round, name, measured_on FROM v1_client_metrics WHERE client_id = 'a' ORDER BY 1, 2, 3")
    assert own == [
        (0, "accuracy", "received"), (0, "loss", "received"),
        (1, "accuracy", "received"), (1, "loss", "received"), (1, "loss", "trained"),
        (2, "loss", "trained"),
    ]  # fmt: skip
    verify = subprocess.run(
        [sys.executable, "-m", "flserver", "verify", "--db", server.db], capture_output=True, text=True, cwd=tmp_path
    )
    assert verify.returncode == 0, verify.stderr
    assert verify.stdout.splitlines()[-1] == "all 9 checks hold"


def test_another_user_reads_the_database_after_a_clean_stop(start: Start, join: Join, tmp_path: Path) -> None:
    server = start("--num-rounds", "1", *FAST)
    (a,) = join(server, "a")
    a.answer()
    a.finished()
    assert server.exit_code() == 0
    assert not list(tmp_path.glob("runs.sqlite-*"))
    server.db.chmod(0o444)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(0o755)
    uri = f"file:{server.db}?mode=ro"
    script = (
        f"import sqlite3; print(sqlite3.connect({uri!r}, uri=True).execute('SELECT status FROM v1_runs').fetchall())"
    )
    other = {"user": 65534, "group": 65534} if os.geteuid() == 0 else {}
    got = subprocess.run(["/usr/bin/env", "python3", "-c", script], capture_output=True, text=True, cwd="/", **other)  # type: ignore[call-overload]
    assert got.stdout == "[('completed',)]\n", got.stderr


def test_a_pickle_that_runs_code_does_not(start: Start, join: Join, tmp_path: Path) -> None:
    """The whole corpus stands in tests/wire; here each class goes over a socket while honest trainers work."""
    import os as module_os
    import pickle

    marker = tmp_path / "ran"

    class Evil:
        def __init__(self, function: object, *arguments: object) -> None:
            self.call = function, arguments

        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return self.call  # type: ignore[return-value]

    command = f"touch {marker}"
    inner = pickle.dumps(Evil(module_os.system, command), protocol=2)
    evils = [
        Evil(module_os.system, command),
        Evil(eval, f"open({str(marker)!r}, 'w')"),
        Evil(exec, f"open({str(marker)!r}, 'w')"),
        Evil(torch.storage._load_from_bytes, inner),  # type: ignore[attr-defined]
    ]
    bodies = [pickle.dumps({"header": "<MODEL>", "id": "a", "model": evil}) for evil in evils]
    bodies += [pickle.dumps(evil) for evil in evils]
    dotted = "\x80\x02ctorch._utils\nos.system\n(X\x05\x00\x00\x00touchtR."
    bodies.append(dotted.encode())
    deep = b"\x80\x04}(" + b")" + b"\x85" * 60 + b"N" + b"u."
    bodies.append(deep)
    bodies.append(b"\x80\x04Nr\x00\x00\x00\x20.")
    server = start("--num-rounds", "2", "--min-clients", "2", *FAST)
    a, b = join(server, "a", "b")
    a.answer()
    for body in bodies:
        with connect(server.port) as peer:
            send(peer, body)
            assert closed(peer)
    b.answer()
    a.answer()
    b.answer()
    for peer in (a, b):
        peer.finished()
    assert server.exit_code() == 0
    assert not marker.exists()
    rows = server.sql("SELECT outcome, reason FROM v1_messages WHERE outcome <> 'ok' AND direction = 'in'")
    assert len(rows) == len(bodies)
    assert {outcome for outcome, _ in rows} == {"refused"}
    assert all(reason for _, reason in rows)
    assert server.sql("SELECT decision, COUNT(*), COUNT(update_digest) FROM v1_updates GROUP BY 1 ORDER BY 1") == [
        ("accepted", 4, 4),
        ("duplicate", 4, 0),  # those that name a, which had answered
    ]


def test_what_a_client_says_of_itself_cannot_hurt_the_record(start: Start) -> None:
    server = start("--num-rounds", "1", "--min-clients", "2", *FAST)
    deep: object = 1
    for _ in range(300):
        deep = [deep]
    with Peer(server, "\x1b[2J") as escape:
        answer = escape.register()
        assert (answer["header"], "'\\x1b[2J' is not a client id" in answer["msg"]) == ("<ERROR>", True)
    with Peer(server, "a") as a, Peer(server, "Zürich") as b:
        assert a.register(info={"deep": deep})["header"] == "<SUCCESS>"
        assert b.register(info={"note": "\ud800\x1b[31m", "rate": 0.5})["header"] == "<SUCCESS>"
        models = [peer.model() for peer in (a, b)]
        a.upload(models[0], metrics={"\ud800": {"received": 1.0}, "loss": {"received": 2.0}})
        b.upload(models[1], metrics={"loss": {"received": float("inf"), "trained": 10**400}})
        for peer in (a, b):
            peer.finished()
    assert server.exit_code() == 0
    infos = dict(server.sql("SELECT client_id, info FROM v1_clients"))
    assert json.loads(infos["a"]) == {}
    assert json.loads(infos["Zürich"])["rate"] == 0.5
    assert server.sql("SELECT client_id, name, value, note FROM v1_client_metrics ORDER BY 1") == [
        ("Zürich", "loss", None, "Infinity"),
        ("a", "loss", 2.0, None),
    ]
    assert "\x1b" not in server.log
